"""``python -m skyfold`` is the command `skyfold`."""

from skyfold.cli import main

if __name__ == "__main__":
    main()
