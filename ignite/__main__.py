"""`python -m ignite` and the `ignite` command."""

from ignite.cli import cli


def main() -> None:
    cli(prog_name="ignite")


if __name__ == "__main__":
    main()
