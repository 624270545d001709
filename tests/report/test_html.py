import base64
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from lipo_e_ray.config import PROFILES
from lipo_e_ray.config_tree import to_dict
from lipo_e_ray.report.analysis import new_instructions
from lipo_e_ray.report.html import write_report
from lipo_e_ray.types import InputError

from .conftest import write_run

VOID = {"img", "meta"}


class Page(HTMLParser):
    """Collects a page's tags, attributes and text, and checks that every tag that opens also closes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.keys, self.links, self.open, self.words = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.keys.append(sorted(key for key, _ in attrs))
        self.links += [value for key, value in attrs if key in ("src", "href", "srcset", "action", "data", "poster")]
        assert not [key for key, _ in attrs if key.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def page(run_dir):
    return Page(write_report(run_dir).read_text(encoding="utf-8"))


def test_the_page_loads_nothing_and_runs_nothing(page, run_dir):
    assert len(page.links) == 5
    assert all(link.startswith("data:image/svg+xml;base64,") for link in page.links)
    assert not {"script", "link", "iframe", "object", "a", "b"} & set(page.tags)
    text = (run_dir / "report.html").read_text(encoding="utf-8")
    assert "default-src 'none'".replace("'", "&#x27;") in text
    assert not re.search(r"url\(|@import", text)


def test_what_a_model_wrote_is_shown_and_not_run(page):
    text = "".join(page.words)
    assert "</td><script>alert('x')</script> & <img src=http://evil.example/a.png> \\u001b[2J {question}" in text
    assert "<b>2</b> + 1?" in text
    assert "\x1b" not in text and "\u202e" not in text


# What leaves a text, a title, a style or an attribute of either quote, and what would then run or be fetched.
HOSTILE = """</title></style></pre></td><script>alert(1)</script>"><img src=x onerror=alert(1)>' onload='alert(1)
<a href=javascript:alert(1)><style>@import url(//evil.example)</style><!-- &lt;script&gt; {question}"""


def test_a_hostile_run_is_a_page_like_any_other(page, tmp_path):
    """Hostile in the names of task, model and encoder, in every instruction, question, answer and failure."""
    demo = PROFILES["demo"]
    line = HOSTILE.replace("\n", " ")  # a configuration's names are of one line
    name = line.replace("/", "|")  # shown without the folders before it
    config = replace(
        demo,
        profile=line,
        instructions_file=line,
        task=replace(demo.task, name=f"/a/{name}"),
        model=replace(demo.model, name=name),
        encoder=replace(demo.encoder, name=line),
    )
    write_run(tmp_path, config, lambda text: f"{text} {HOSTILE}")
    text = write_report(tmp_path).read_text(encoding="utf-8")
    hostile = Page(text)
    assert (hostile.tags, hostile.keys) == (page.tags, page.keys), "a text became markup"
    assert len(hostile.links) == 5 and all(link.startswith("data:image/svg+xml;base64,") for link in hostile.links)
    pictures = [base64.b64decode(link.partition(",")[2]) for link in hostile.links]
    assert not [picture for picture in pictures if b"alert" in picture or b"<script" in picture]
    words = "".join(hostile.words)
    assert words.count(name) >= 2 and words.count(HOSTILE) > 15, "not shown as it is"


def test_the_answer_comes_first_and_fidelities_stand_beside_scores(page):
    text = " ".join(" ".join(page.words).split())
    assert text.index("30.0%") < text.index("80.0%") < text.index("The best prompt")
    assert "+50.0 points" in text and "McNemar's exact p = 0.12" in text
    assert "1 37.5% 8 80.0% [49.0, 94.3] Hyperband APE 3 By the model." in text
    assert "InvBO: all candidates 3 1 16 37.5% 8" in text
    assert "1 x timed out" in text and "2 of 64" in text and "a-template" in text


def test_a_run_without_results_has_a_report(empty):
    text = "".join(Page(write_report(empty).read_text(encoding="utf-8")).words)
    assert "not measured yet" in text and "No result yet" in text


def test_a_folder_without_a_run_is_bad_input(tmp_path):
    with pytest.raises(InputError):
        write_report(tmp_path)


def test_an_instruction_the_user_gave_is_not_called_new(page, run_dir, records, tmp_path):
    assert "2 instructions written by inversion were evaluated, 1 of them in no input" in "".join(page.words)
    given = tmp_path / "mine.txt"
    given.write_text("\n".join(n.best.prompt.instruction for n in new_instructions(records)), encoding="utf-8")
    folder = shutil.copytree(run_dir, tmp_path / "run")
    (folder / "config.json").write_text(json.dumps(to_dict(PROFILES["demo"]) | {"instructions_file": str(given)}))
    assert "were evaluated, 0 of them in no input" in write_report(folder).read_text(encoding="utf-8")
