"""Directive ``command-line``: the help of every command, from its parser."""

import argparse
from collections.abc import Iterator

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx

from sb3_sparse.cli.command_line import parser as all_commands


def below(parser: argparse.ArgumentParser, *names: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                yield " ".join((*names, name)), command
                yield from below(command, *names, name)


def section(name: str, parser: argparse.ArgumentParser) -> nodes.section:
    result = nodes.section("", nodes.title("", name), ids=[nodes.make_id(f"command-{name}")], names=[name])
    # The width of a page of this manual, not that of the terminal it is built in.
    parser.formatter_class = lambda prog: argparse.HelpFormatter(prog, width=100)
    result += nodes.literal_block("", parser.format_help(), language="none")
    return result


class CommandLine(Directive):
    """A section for each command."""

    def run(self) -> list[nodes.Node]:
        return [section(name, parser) for name, parser in below(all_commands())]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("command-line", CommandLine)
    return {"parallel_read_safe": True}
