"""Made-up commands by the thousand: an import gives a model that the operator takes, or says what is wrong, and nothing else.

    python -m tests.fuzz.commands --minutes 5

Each case is made from a number of its own; a failure prints it, and `--seed N --cases 1` makes that case again.
"""

import argparse
import json
import random
import shlex
import sys
import time
import traceback
from collections import Counter

import yaml

from tests.engine.test_command import HOSTILE
from tests.importing.meaning import meaning, pod_words, serve_line
from vllm_operator.api.types import VLLMModel
from vllm_operator.cli.importing import as_json, as_yaml
from vllm_operator.engine.catalogue import find, newest, versions
from vllm_operator.importing.errors import ImportRefused
from vllm_operator.importing.model import Imported, import_model

SECRET = "hf_" + "sEcReT" * 5
STARTS = (
    "vllm serve",
    "serve",
    "",
    "python3 -m vllm.entrypoints.openai.api_server --model",
    "docker run --gpus all --rm -it vllm/vllm-openai:v0.24.0 --model",
    "docker run -e HF_TOKEN=x -v /a:/b img",
    "sudo docker run --entrypoint vllm img serve",
    "bash -c 'vllm serve m'",
    "services:\n  a:\n    image: vllm/vllm-openai:v0.24.0\n    command: ",
    "image: x\ncommand:\n  - ",
    f"HF_TOKEN={SECRET} vllm serve",
    f"export X=1\nVLLM_API_KEY={SECRET} vllm serve",
)
MODELS = ("m", "Qwen/Qwen3-8B", "/models/x", "s3://b/m", "", "-m", "a/b/c", "$M", "'x y'", "ü")
SHELL = (
    *(
        "'",
        '"',
        "\\",
        "\n",
        "\\\n",
        " ",
        "\t",
        "#",
        "$",
        "${",
        "}",
        "$(",
        ")",
        "`",
        ";",
        "&&",
        "||",
        "|",
        "&",
        ">",
        "<",
        "<<EOF",
    ),
    *(
        "$X",
        "$(pwd)",
        f"$(cat {SECRET})",
        "${X:-1}",
        "$'a'",
        "~",
        "*",
        "{a,b}",
        "{",
        "=",
        "--",
        "-",
        "---",
        "\r",
        "\0",
        "\x1b",
        "\u2028",
        "\ufdd0",
        "\ud800",
    ),
    *(
        "é",
        "- ",
        ": ",
        "[",
        "]",
        "&a ",
        "*a",
        "!!python/object:x ",
        "x: y\n",
        "?",
        "@",
        "%",
        "\ufeff",
        "a" * 300,
        "[" * 2000,
    ),
)


def make(seed: int) -> str:
    """The text of a case."""
    rng = random.Random(seed)
    catalogue = find(rng.choice(versions())) or newest()
    options = sorted(catalogue.options)
    words = [rng.choice(STARTS), rng.choice(MODELS)]
    for _ in range(rng.randrange(8)):
        option = rng.choice(options)
        name = rng.choice(
            (option, option.replace("-", "_"), f"no-{option}", option[: rng.randrange(2, 30)], f"{option}.k.l")
        )
        flag = rng.choice((f"--{name}", f"-{rng.choice(sorted(catalogue.short_names))}", rng.choice(SHELL)))
        value = rng.choice(
            (rng.choice(HOSTILE), str(rng.randrange(-2, 10**6)), "0.5", "32k", '{"a": {"b": 1}}', "true", SECRET)
        )
        quoted = rng.choice((shlex.quote(value), f'"{value}"', value))
        words.append(rng.choice((f"{flag} {quoted}", f"{flag}={quoted}", flag, quoted)))
    text = rng.choice((" ", " \\\n  ", "\n")).join(words)
    for _ in range(rng.choice((0, 0, 0, 1, 3, 10))):
        place = rng.randrange(len(text) + 1)
        text = rng.choice((text[:place] + rng.choice(SHELL) + text[place:], text[:place] + text[place + 1 :]))
    return text


def check(text: str) -> str:
    """What became of a case. Raises AssertionError, or whatever the import raises."""
    message, imported = "", None
    try:
        imported = import_model(text, name="fuzz")
    except ImportRefused as refused:
        message = str(refused)
    if imported is not None:
        _check_imported(imported)
        return "imported"
    assert SECRET not in message, "a secret is in the message"
    assert message
    assert message.isascii()
    assert message.isprintable()
    return "refused"


def _check_imported(imported: Imported) -> None:
    VLLMModel.model_validate(imported.model)
    written, noted = json.dumps(imported.model), "\n".join(imported.notes)
    assert SECRET not in written, "a secret is in the model"
    assert SECRET not in noted, "a secret is in a note"
    assert all(len(note.splitlines()) == 1 for note in imported.notes)
    documents = list(yaml.safe_load_all(as_yaml(imported)))
    assert documents[0] == imported.model
    assert as_json(imported).isascii()
    version = imported.model["spec"].get("engine", {}).get("version")
    # what the version does not know is kept, for the operator to refuse
    words = pod_words(imported.model, checked=False)
    again = import_model(serve_line(imported.model, checked=False), name="fuzz", version=version)
    assert meaning(pod_words(again.model, checked=False), version=version) == meaning(words, version=version), (
        "read again, it is another"
    )


def main() -> int:
    """Run cases until the time is over."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.commands", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5, help="default: 5")
    parser.add_argument("--seed", type=int, default=None, help="number of the first case; default: made from the time")
    parser.add_argument("--cases", type=int, default=None, help="stop after as many")
    arguments = parser.parse_args()
    first = arguments.seed if arguments.seed is not None else int(time.time()) * 1_000_000
    print(f"first seed {first}", flush=True)
    end = time.monotonic() + arguments.minutes * 60
    seed, results = first, Counter[str]()
    while time.monotonic() < end and (arguments.cases is None or seed - first < arguments.cases):
        text = make(seed)
        try:
            results[check(text)] += 1
        except Exception:
            traceback.print_exc()
            print(f"seed {seed}: {text!r}", flush=True)
            results["failed"] += 1
        seed += 1
    print(f"{seed - first:,} cases: " + ", ".join(f"{count:,} {name}" for name, count in sorted(results.items())))
    return 1 if results["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
