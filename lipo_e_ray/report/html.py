"""``report.html``, from a run folder's ledger.

The page has no script and loads nothing: styles are inline, plots are data URIs. A content security policy forbids all
else, and ``_tag`` escapes all text, so that nothing a model wrote can act in the reader's browser.
"""

from __future__ import annotations

import html
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from lipo_e_ray.config_tree import to_dict
from lipo_e_ray.instructions.seeds import SEED_INSTRUCTIONS
from lipo_e_ray.report.analysis import Part, new_instructions, parts, top_prompts, ways
from lipo_e_ray.report.answer import PLACEHOLDER, final_line
from lipo_e_ray.report.plots import SOURCE_NAMES, STAGE_NAMES, draw
from lipo_e_ray.report.records import Records, ScoredPrompt, read_folder
from lipo_e_ray.store.run_folder import RunFolder
from lipo_e_ray.task.rendering import render

SHOWN_INSTRUCTIONS = 20

_STYLE = """
:root { color-scheme: light; --ink: #1c1c1c; --soft: #666; --line: #ddd; --best: #0072b2; --base: #777; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem; }
p { margin: .4rem 0; } .soft { color: var(--soft); } img { width: 100%; margin: .6rem 0 1.2rem; }
table { border-collapse: collapse; width: 100%; } th, td { padding: .3rem .8rem .3rem 0; text-align: left; }
th { border-bottom: 2px solid var(--line); font-size: .85rem; } td { border-bottom: 1px solid var(--line); }
th, td { vertical-align: top; } .n { text-align: right; white-space: nowrap; }
td, .text, pre { white-space: pre-wrap; overflow-wrap: break-word; } td { max-width: 38rem; }
pre { font-size: .8rem; background: #f6f6f6; padding: .8rem; }
.answer { display: grid; grid-template-columns: 5rem 14rem 1fr; gap: .4rem 1rem; align-items: center; margin: 1rem 0; }
.big { font-size: 1.9rem; font-weight: 700; line-height: 1.2; }
.scale { position: relative; height: 1.1rem; background: #f2f2f2; }
.bar { position: absolute; top: .35rem; height: .4rem; opacity: .45; }
.dot { position: absolute; top: .1rem; height: .9rem; width: 4px; margin-left: -2px; }
.best div { background: var(--best); } .baseline div { background: var(--base); }
.chat { display: grid; grid-template-columns: 1fr 1fr; gap: .5rem 1rem; }
.turn { border-left: 3px solid var(--line); padding: 0 .8rem; } .role { font-size: .8rem; color: var(--soft); }
.system { border-color: var(--best); grid-column: 1 / -1; }
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class _Html(str):
    """Markup made by ``_tag``. Any other ``str`` is text, which ``_tag`` escapes."""


def _tag(name: str, *content: str, **attributes: str) -> _Html:
    inner = "".join(c if isinstance(c, _Html) else _escape(c) for c in content)
    marks = "".join(f' {key.rstrip("_").replace("_", "-")}="{_escape(value)}"' for key, value in attributes.items())
    return _Html(f"<{name}{marks}>" + ("" if name in ("img", "meta") else f"{inner}</{name}>"))


def _escape(text: str) -> str:
    """Escape markup, and write control characters as ``\\uXXXX``, so that the reader sees them."""
    return html.escape("".join(c if c.isprintable() or c in "\n\t" else f"\\u{ord(c):04x}" for c in text))


def write_report(run_dir: Path) -> Path:
    """Write ``report.html`` into a run folder and return its path. Raises ``InputError`` where there is no run."""
    folder = RunFolder(Path(run_dir))
    config = folder.load_config()
    records = read_folder(folder)
    pictures = [_tag("img", src=p.uri, alt=p.title) for p in draw(records, folder.latent_folder)]
    title = f"LIPO-E: {Path(config.task.name).name} with {Path(config.model.name).name}"
    body = [
        _tag("h1", title),
        *_answer(records),
        *_best_prompt(records),
        _tag("h2", "The ten best prompts"),
        *_top(records),
        _tag("h2", "What each part gave"),
        *_parts(records, parts(records), "part"),
        *_parts(records, ways(records), "how the prompt came about"),
        *_new_instructions(records, _given(config.instructions_file)),
        _tag("h2", "How the run went"),
        *pictures,
        _tag("h2", "Run facts"),
        *_facts(records),
        _tag("h2", "Configuration"),
        _tag("pre", json.dumps(to_dict(config), indent=2, ensure_ascii=False)),
    ]
    head = [
        _tag("meta", charset="utf-8"),
        _tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        _tag("title", title),
        _tag("style", _Html(_STYLE)),
    ]
    page = "<!doctype html>\n" + _tag("html", _tag("head", *head), _tag("body", *body), lang="en") + "\n"
    path = folder.report_file
    draft = path.with_suffix(".tmp")
    draft.write_text(page, encoding="utf-8")
    draft.replace(path)
    return path


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], text: Sequence[int]) -> _Html:
    """A table. ``text``: the indices of columns with words; the others have numbers, which are aligned right."""

    def row(cell: str, values: Sequence[str]) -> _Html:
        return _tag("tr", *(_tag(cell, v, class_="" if i in text else "n") for i, v in enumerate(values)))

    return _tag("table", row("th", columns), *(row("td", values) for values in rows))


def _answer(records: Records) -> list[_Html]:
    """The result of the run: both test accuracies on one scale, the cost, the paired difference."""
    cells = []
    for name, scored in (("baseline", records.baseline), ("best", records.best)):
        if scored is not None and (rate := scored.test) is not None:
            low, high = rate.interval
            cells += [
                _tag("div", name),
                _figure(f"{rate.value:.1%}", f"[{100 * low:.1f}, {100 * high:.1f}]"),
                _tag(
                    "div",
                    _tag("div", class_="bar", style=f"left:{low:.2%};width:{high - low:.2%}"),
                    _tag("div", class_="dot", style=f"left:{rate.value:.2%}"),
                    class_=f"scale {name}",
                ),
            ]
    cells += [_tag("div", "cost"), _figure(f"{records.usage.calls:,}", "LLM calls"), _tag("div")]
    lead = f"Test accuracy, 0 to 100%, with 95% intervals. {records.usage.calls:,} LLM calls in all, test included."
    blocks = [_tag("p", lead if records.paired else final_line(records)), _tag("div", *cells, class_="answer")]
    if (paired := records.paired) is not None:
        low, high = paired.interval
        blocks.append(
            _tag(
                "p",
                f"On the same {paired.n} test questions: {100 * paired.difference:+.1f} points [{100 * low:+.1f}, "
                f"{100 * high:+.1f}]; {paired.only_best} right with the best prompt only, {paired.only_baseline} "
                f"with the baseline only (McNemar's exact p = {paired.p_value:.2g}).",
            )
        )
    return [
        *blocks,
        _tag(
            "p",
            "Prompts were chosen on validation examples. The baseline is the user's first instruction, or else the "
            "best shipped one, without exemplars. Where no prompt is ahead of it, it is the answer.",
            class_="soft",
        ),
    ]


def _figure(value: str, unit: str) -> _Html:
    return _tag("div", _tag("span", value, class_="big"), _tag("span", f" {unit}", class_="soft"))


def _best_prompt(records: Records) -> list[_Html]:
    if (best := records.best) is None:
        return [_tag("p", "No result yet: the ledger holds no evaluated prompt.")]
    turns = [
        _tag(
            "div",
            _tag("div", m["role"], class_="role"),
            _tag("div", m["content"], class_="text"),
            class_=f"turn {m['role']}",
        )
        for m in render(best.prompt, PLACEHOLDER)
    ]
    lead = (
        f"Found by {STAGE_NAMES[best.origin.stage]}, its instruction by {_author(best)}. Right on "
        f"{best.accuracy} of {best.fidelity} validation examples. The chat as it is sent:"
    )
    return [_tag("h2", "The best prompt"), _tag("p", lead, class_="soft"), _tag("div", *turns, class_="chat")]


def _author(scored: ScoredPrompt) -> str:
    return SOURCE_NAMES[scored.origin.source]


def _top(records: Records) -> list[_Html]:
    rows = [
        (
            "" if rank is None else str(rank),
            f"{s.observation.error:.1%}",
            str(s.fidelity),
            str(s.test) if s.test else "",
            STAGE_NAMES[s.origin.stage],
            _author(s),
            str(len(s.prompt.exemplars)),
            s.prompt.instruction,
        )
        for rank, s in top_prompts(records)
    ]
    note = (
        "Scores of different fidelities are not comparable: only prompts measured on all "
        f"{records.full_fidelity} examples have a rank."
    )
    return [
        _table(
            ("rank", "error", "on examples", "test accuracy", "stage", "by", "exemplars", "instruction"),
            rows,
            (4, 5, 7),
        ),
        _tag("p", note, class_="soft"),
    ]


def _parts(records: Records, found: Sequence[Part], kind: str) -> list[_Html]:
    rows = [
        (
            p.name,
            str(p.prompts),
            str(p.finished),
            f"{p.calls:,}",
            f"{p.best.observation.error:.1%}" if p.best else "",
            str(p.best.fidelity) if p.best else "",
        )
        for p in found
    ]
    note = (
        f"In full: on all {records.full_fidelity} examples that any prompt was asked. Best error: the least one among "
        "the part's prompts that were asked the most examples."
    )
    return [
        _table((kind, "prompts", "in full", "LLM calls", "best error", "on examples"), rows, (0,)),
        _tag("p", note, class_="soft"),
    ]


def _given(instructions_file: str) -> set[str]:
    """The instructions the run was given; those of the user's file only while it still exists."""
    path = Path(instructions_file)
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    return {*SEED_INSTRUCTIONS, *lines}


def _new_instructions(records: Records, given: set[str]) -> list[_Html]:
    found = new_instructions(records, given)
    rows = [
        (
            n.best.prompt.instruction,
            "" if (c := n.best.origin.cosine) is None else f"{c:.3f}",
            "no" if n.novel else "yes",
            f"{n.best.observation.error:.1%}",
            str(n.best.fidelity),
        )
        for n in found
    ]
    lead = (
        f"{len(found)} instructions written by inversion were evaluated, {sum(n.novel for n in found)} of them in "
        "no input (shipped, given or proposed from APE, whatever case and spacing). Cosine: of the text's "
        f"embedding to the one it was written for. The best {SHOWN_INSTRUCTIONS} at most are shown."
    )
    columns = ("instruction", "cosine", "in an input", "error", "on examples")
    return [
        _tag("h2", "InvBO's new instructions"),
        _tag("p", lead, class_="soft"),
        _table(columns, rows[:SHOWN_INSTRUCTIONS], (0,)),
    ]


def _facts(records: Records) -> list[_Html]:
    usage = records.usage
    came = usage.answers + usage.texts + len(records.failures)
    reasons = Counter(" ".join(f.error.split())[:200] for f in records.failures).most_common(3)
    rows = [
        (
            "LLM calls",
            f"{usage.calls:,}: {usage.answers:,} answers, {usage.texts:,} texts for the search, "
            f"{len(records.failures):,} failed attempts, {usage.calls - came:,} lost on the way",
        ),
        ("unparseable answers", f"{usage.unparseable:,} of {usage.answers:,} (counted as wrong)"),
        ("failed attempts", "; ".join(f"{count} x {reason}" for reason, count in reasons) or "none"),
        (
            "tokens",
            f"{usage.tokens['prompt_tokens']:,} in, of which {usage.cache_share:.0%} came from the prefix "
            f"cache; {usage.tokens['completion_tokens']:,} out",
        ),
        *((f"{name} fingerprint", value) for name, value in asdict(records.fingerprints).items()),
    ]
    return [_table(("fact", "value"), rows, (0, 1))]
