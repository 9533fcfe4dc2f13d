"""The demo: a labelled set cut from photographs that a package ships, a model trained on it, and two comparisons."""
