"""Run by vLLM's own Python, which has none of this project: read argument vectors, write what vLLM's parser makes of them.

Standard input: a JSON list of [vector without `vllm`, names of attributes]. Standard output: for each, an object of those
attributes, or the parser's message.
"""

import json
import sys

from vllm.entrypoints.launchers.cli_args import make_arg_parser  # type: ignore[import-not-found,unused-ignore]
from vllm.utils.argparse_utils import FlexibleArgumentParser  # type: ignore[import-not-found,unused-ignore]


class Parser(FlexibleArgumentParser):  # type: ignore[misc,unused-ignore]
    """The parser, but raising instead of ending the process."""

    def error(self, message: str) -> None:  # type: ignore[override,unused-ignore]
        raise ValueError(message)


def main() -> None:
    # as vllm/entrypoints/cli/main.py puts it together
    parser = Parser(prog="vllm")
    make_arg_parser(parser.add_subparsers(dest="subparser", parser_class=Parser).add_parser("serve"))
    results: list[object] = []
    for words, attributes in json.load(sys.stdin):
        try:
            parsed = parser.parse_args(words)
        except ValueError as error:
            results.append(str(error))
        else:
            results.append({name: getattr(parsed, name) for name in attributes})
    sys.stdout.write(json.dumps(results, default=repr) + "\n")


if __name__ == "__main__":
    main()
