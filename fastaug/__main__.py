"""`python -m fastaug` is `fastaug`."""

from fastaug.cli import main

if __name__ == "__main__":
    main()
