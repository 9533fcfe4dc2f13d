"""What is drawn: operators, and the matrices that they are."""
