"""Malformed task folders, instruction files and run folders: good ones, each with one mutation no reading allows.

Every case is invalid by construction, so that no oracle is needed: a proper prefix of a JSON object, a byte that UTF-8
never has, a value outside the documented range. Where chance chooses (the row, the cut), the case's number seeds it.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lipo_e_ray.config import PROFILES
from lipo_e_ray.config_tree import to_dict
from tests.task_files import ROWS, SPLITS, good_rows, write_rows

CONFIG = to_dict(PROFILES["demo"])
Mutate = Callable[[Path, random.Random], object]


@dataclass(frozen=True)
class Case:
    """``mutate`` spoils a good folder; ``names`` is what the error line must name: a file, a key, a flag."""

    name: str
    mutate: Mutate
    names: str


# ---- values ----

NOT_TEXT = {
    "null": None,
    "integer": 5,
    "minus zero": -0.0,
    "NaN": float("nan"),
    "infinity": float("inf"),
    "huge integer": 10**400,
    "true": True,
    "empty list": [],
    "list": ["a"],
    "object": {"text": "a"},
    "nested": {"a": [{"b": [{}]}]},
    "empty": "",
    "blank": " \t\n",
    "half a surrogate pair": "\ud800",
}
NO_OBJECT = {
    "list": [1, 2],
    "pair": ["What?", "5"],
    "number": 7,
    "string": "What is 1 + 1?",
    "null": None,
    "NaN": float("nan"),
    "no keys": {},
    "upper case": {"Question": "q?", "Answer": "1"},
    "plural": {"questions": "q?", "answers": "1"},
    "inside": {"row": {"question": "q?", "answer": "1"}},
    "no question": {"answer": "1"},
    "no answer": {"question": "q?"},
    "long keys": {"k" * 100_000: "q?"},
}
NO_JSON = {
    "prose": "not json",
    "open brackets": "[" * 100_000,
    "single quotes": "{'question': 'q?', 'answer': '1'}",
    "CSV": "q?,1",
    "two on a line": '{"question": "q?", "answer": "1"} {"question": "r?", "answer": "2"}',
    "trailing comma": '{"question": "q?", "answer": "1"},',
    "comment": "// rows",
    "endless integer": '{"question": ' + "9" * 5000 + ', "answer": "1"}',
    "raw NUL": '{"question": "a\0b?", "answer": "1"}',
    "raw escape": '{"question": "\x1b[2J?", "answer": "1"}',
    "NUL alone": "\0",
}


def replaced_line(split: str, line: Any) -> Mutate:
    def mutate(folder: Path, rng: random.Random) -> None:
        rows = good_rows(split)
        rows[rng.randrange(ROWS)] = line
        write_rows(folder / f"{split}.jsonl", rows)

    return mutate


def replaced_value(split: str, key: str, value: Any) -> Mutate:
    def mutate(folder: Path, rng: random.Random) -> None:
        rows = good_rows(split)
        rows[rng.randrange(ROWS)][key] = value
        write_rows(folder / f"{split}.jsonl", rows)

    return mutate


def bad_rows() -> Iterator[Case]:
    for split in SPLITS:
        for key in ("question", "answer"):
            for name, value in NOT_TEXT.items():
                yield Case(f"{split} {key} {name}", replaced_value(split, key, value), f"{split}.jsonl line ")
        for name, line in (NO_OBJECT | NO_JSON).items():
            yield Case(f"{split} row {name}", replaced_line(split, line), f"{split}.jsonl line ")


# ---- bytes ----


def cut_row(split: str) -> Mutate:
    """One row ends early: a proper prefix of a JSON object is no JSON."""

    def mutate(folder: Path, rng: random.Random) -> None:
        rows: list[Any] = good_rows(split)
        at = rng.randrange(ROWS)
        line = json.dumps(rows[at])
        rows[at] = line[: rng.randrange(1, len(line))]
        write_rows(folder / f"{split}.jsonl", rows)

    return mutate


def without_a_mark(split: str) -> Mutate:
    """One of a row's own braces, quotes, colons or its comma is gone."""

    def mutate(folder: Path, rng: random.Random) -> None:
        rows: list[Any] = good_rows(split)
        at = rng.randrange(ROWS)
        line = json.dumps(rows[at])
        mark = rng.choice([i for i, letter in enumerate(line) if letter in '{}":,'])
        rows[at] = line[:mark] + line[mark + 1 :]
        write_rows(folder / f"{split}.jsonl", rows)

    return mutate


def flipped_byte(split: str) -> Mutate:
    """One byte, anywhere in the file, becomes one that UTF-8 never has."""

    def mutate(folder: Path, rng: random.Random) -> None:
        data = bytearray((folder / f"{split}.jsonl").read_bytes())
        data[rng.randrange(len(data))] = rng.choice([0xC0, 0xC1, *range(0xF5, 0x100)])
        (folder / f"{split}.jsonl").write_bytes(data)

    return mutate


def bad_bytes() -> Iterator[Case]:
    for split in SPLITS:
        for i in range(10):
            yield Case(f"{split} cut {i}", cut_row(split), f"{split}.jsonl line ")
            yield Case(f"{split} mark {i}", without_a_mark(split), f"{split}.jsonl line ")
            yield Case(f"{split} byte {i}", flipped_byte(split), f"{split}.jsonl")


# ---- files ----


def in_bytes(of: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(of(path.read_bytes()))


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def a_link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def as_array(data: bytes) -> bytes:
    return b"[" + b",".join(data.split(b"\n")[:-1]) + b"]"


FILES: dict[str, Callable[[Path], object]] = {
    "empty": in_bytes(lambda _: b""), "blank": in_bytes(lambda _: b" \n\t\n\r\n"), "folder": a_folder,
    "only a byte order mark": in_bytes(lambda _: b"\xef\xbb\xbf"),
    "UTF-16": in_bytes(lambda data: data.decode().encode("utf-16")),
    "two byte order marks": in_bytes(lambda data: b"\xef\xbb\xbf" * 2 + data), "array": in_bytes(as_array),
    "old Mac line ends": in_bytes(lambda data: data.replace(b"\n", b"\r")),
    "NUL bytes": in_bytes(lambda _: b"\0" * 4096),
    "indented": in_bytes(lambda data: json.dumps(json.loads(as_array(data)), indent=1).encode()),
    "noise": in_bytes(lambda _: bytes(random.Random(0).randbytes(4096))),
}  # fmt: skip


def spoilt_file(name: str, spoil: Callable[[Path], object]) -> Mutate:
    return lambda folder, _: spoil(folder / name)


def repeated(split: str, of: str, change: Callable[[str], str]) -> Mutate:
    """A question of one split comes again in another, or in the same one, with another answer."""

    def mutate(folder: Path, rng: random.Random) -> None:
        again = {"question": change(rng.choice(good_rows(of))["question"]), "answer": "77"}
        write_rows(folder / f"{split}.jsonl", [*good_rows(split), again])

    return mutate


def bad_files() -> Iterator[Case]:
    for split in SPLITS:
        for name, spoil in FILES.items():
            yield Case(f"{split} {name}", spoilt_file(f"{split}.jsonl", spoil), f"{split}.jsonl")
        for of in SPLITS:
            for change in (str, lambda text: f"  {text.replace(' ', '   ')}\n"):
                yield Case(f"{split} repeats {of}", repeated(split, of, change), ".jsonl line ")
    for split in ("train", "test"):  # without validation.jsonl, validation is split off train
        yield Case(f"no {split}", spoilt_file(f"{split}.jsonl", Path.unlink), f"{split}.jsonl")
        yield Case(f"{split} links to itself", spoilt_file(f"{split}.jsonl", a_link_to_itself), f"{split}.jsonl")
    for n in range(1, 8):
        yield Case(
            f"{n} validation rows",
            lambda folder, _, n=n: write_rows(folder / "validation.jsonl", good_rows("validation")[:n]),
            f"b_min), got {n}",
        )
    yield Case("no folder", lambda folder, _: shutil.rmtree(folder), "task: expected arithmetic, gsm8k or a folder")
    yield Case(
        "links to itself",
        lambda folder, _: (shutil.rmtree(folder), folder.symlink_to(folder)),
        "task: expected arithmetic, gsm8k or a folder",
    )
    yield Case("a file for a folder", lambda folder, _: (shutil.rmtree(folder), folder.touch()), "task: ")


def bad_instructions() -> Iterator[Case]:
    """``mutate`` writes, or does not write, the instruction file itself."""
    contents = {
        "empty": b"",
        "blank": b"\n \r\n\t\n",
        "half a character": "Lös es.".encode()[:2],
        "latin-1": b"L\xf6s es.",
        "UTF-16": "Solve it.".encode("utf-16"),
        "noise": random.Random(1).randbytes(1000),
    }
    for name, content in contents.items():
        yield Case(name, lambda path, _, content=content: path.write_bytes(content), "--instructions: ")
    yield Case("none", lambda path, _: None, "--instructions: ")
    yield Case("folder", lambda path, _: path.mkdir(), "--instructions: ")
    yield Case("link to itself", lambda path, _: path.symlink_to(path), "--instructions: ")


# ---- config.json ----

WRONG = {
    "string": "1",
    "null": None,
    "list": [1],
    "object": {"value": 1},
    "NaN": float("nan"),
    "infinity": float("inf"),
    "huge": 10**400,
    "negative": -1,
}
RANGES = [
    ("max_exemplars", 9),
    ("model.gpu_memory_utilization", 0),
    ("model.gpu_memory_utilization", 1.01),
    ("hyperband.eta", 1),
    ("hyperband.b_min", 0),
    ("hyperband.chunks", 0),
    ("test_share", 1.5),
    ("proposal.random_fraction", 1.5),
    ("proposal.steps", 0),
    ("invbo.q", 0),
    ("vae.heads", 0),
    ("vae.learning_rate", 0),
    ("model.dtype", "float17"),
    ("vae.hidden", 10**6),
    ("invbo.iterations", 10**9),
    ("engines", 10**6),
    ("seed", 2**32),
    ("model.tensor_parallel", 0),
    ("model.max_num_seqs", 0),
    ("ape.num_instructions", 0),
]


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        yield from leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]


def changed(path: str, value: Any) -> Mutate:
    """The good config with the dotted ``path`` set to ``value``."""

    def mutate(folder: Path, _: random.Random) -> None:
        config = json.loads(json.dumps(CONFIG))
        *sections, key = path.split(".")
        inner = config
        for section in sections:
            inner = inner[section]
        inner[key] = value
        (folder / "config.json").write_text(json.dumps(config))

    return mutate


def bad_values() -> Iterator[Case]:
    for path, good in leaves(CONFIG):
        key = path.rpartition(".")[2]
        wrong = WRONG | {"true": True}
        if isinstance(good, bool):
            wrong.pop("true")
        elif isinstance(good, int):
            wrong |= {"fraction": 1.5}
        elif isinstance(good, str):
            wrong = wrong | {"string": "line\nend", "NUL": "\0", "half a surrogate pair": "\ud800"}
        for name, value in wrong.items():
            yield Case(f"{path} {name}", changed(path, value), key)
    for path, value in RANGES:
        yield Case(f"{path} {value}", changed(path, value), path.rpartition(".")[2])


def bad_structure() -> Iterator[Case]:
    sections = [key for key, value in CONFIG.items() if isinstance(value, dict)]
    for section in sections:
        for name, value in {"null": None, "list": [], "number": 0, "string": "x", "true": True}.items():
            yield Case(f"{section} is {name}", changed(section, value), "expected an object of settings")
        yield Case(f"{section} unknown", changed(f"{section}.nmae", 1), f"unknown setting '{section}.nmae'")
    yield Case("unknown", changed("sede", 0), "unknown setting 'sede'")
    yield Case("long unknown", changed("k" * 100_000, 0), "unknown setting 'kkk")
    text = json.dumps(CONFIG)
    for i in range(12):
        yield Case(
            f"cut {i}",
            lambda folder, rng: (folder / "config.json").write_text(text[: rng.randrange(len(text))]),
            "config.json",
        )
    contents = {
        "blank": b" \n",
        "noise": random.Random(2).randbytes(500),
        "byte order mark": b"\xef\xbb\xbf" + text.encode(),
        "UTF-16": text.encode("utf-16"),
        "latin-1": text.replace("demo", "d\xf6mo").encode("latin-1"),
        "open brackets": b"[" * 100_000,
        "endless integer": b'{"seed": ' + b"9" * 5000 + b"}",
        "NUL bytes": b"\0" * 100,
    }
    for name, content in contents.items():
        yield Case(
            name, lambda folder, _, content=content: (folder / "config.json").write_bytes(content), "config.json"
        )
    for value in ([], [CONFIG], None, 3, "x", float("nan")):
        yield Case(
            f"all {value!r:.5}",
            lambda folder, _, value=value: (folder / "config.json").write_text(json.dumps(value)),
            "the configuration: expected an object of settings",
        )
    yield Case("none", spoilt_file("config.json", Path.unlink), "config.json")
    yield Case("folder", spoilt_file("config.json", a_folder), "config.json")
    yield Case("link to itself", spoilt_file("config.json", a_link_to_itself), "config.json")


def bad_pointers() -> Iterator[Case]:
    """``remote.json``, which a run on a cluster leaves here."""
    for value in (
        "",
        "{",
        "[]",
        "3",
        "null",
        "{}",
        '{"address": 3, "name": "x"}',
        '{"address": "ray://h:1"}',
        "[" * 9999,
    ):
        yield Case(
            f"remote.json {value:.20}",
            lambda folder, _, value=value: (folder / "remote.json").write_text(value),
            "remote.json",
        )


def bad_names() -> Iterator[Case]:
    """A good config that names what is not there; found when a run starts from it."""
    for path, value, names in (
        ("task.name", "/no/such/folder", "task: "),
        ("task.metric", "bleu", "metric"),
        ("task.metric", ".:f", "metric"),
        ("task.pool_size", 100_001, "arithmetic: "),
        ("model.name", "./no/such/model", "model"),
        ("model.name", "", "model"),
        ("encoder.name", "./no/such/encoder", "encoder"),
        ("encoder.name", "", "encoder"),
        ("instructions_file", "/no/such/file", "--instructions"),
        ("hyperband.b_min", 1000, "b_min"),
    ):
        yield Case(f"{path} {value}", changed(path, value), names)


TASKS = [*bad_rows(), *bad_bytes(), *bad_files()]
INSTRUCTIONS = [*bad_instructions()]
NAMES = [*bad_names()]
RUN_FOLDERS = [*bad_values(), *bad_structure(), *bad_pointers()]
