"""`python -m uacs` is `uacs`."""

from uacs.cli import main

if __name__ == "__main__":
    main()
