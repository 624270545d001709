"""``--address ray://...`` through a real Ray Client server with token authentication."""

from pathlib import Path

import pytest

from tests.heads import BIN, RUN, Head, interrupt, outcomes

LIPO = BIN / "lipo-e-ray"


def folder_there(head: Head) -> Path:
    """Of the only run there; a folder that does not exist before."""
    return next((head.folder / "home" / "lipo-e-ray-runs").glob("mine-*"), head.folder / "none")


def test_the_driver_runs_on_the_head_and_its_results_come_back(head):
    here = head.folder / "work" / "mine"
    command = [LIPO, *RUN, "--address", head.client, "--output", "mine"]
    status, out, err, paid = interrupt(head, command, lambda: folder_there(head))
    assert (status, err) == (130, "")
    assert out.splitlines()[-1].endswith("interrupted; nothing that was answered is lost: lipo-e-ray resume mine")
    assert str(head.folder) not in out, "names that mean nothing here"

    (head.folder / "work" / "task").rename(head.folder / "work" / "moved")  # the cluster has its own copy by now
    try:
        status, out, err = head.run(LIPO, "resume", "mine")
    finally:
        (head.folder / "work" / "moved").rename(head.folder / "work" / "task")
    assert (status, err) == (0, ""), out
    assert out.splitlines()[-3:-1] == ["best prompt: mine/best_prompt.json", "report: mine/report.html"]
    assert out.splitlines()[-1].startswith("test accuracy: baseline ")
    after = outcomes(folder_there(head))
    assert len(paid) < len(after) and after[: len(paid)] == paid, "an outcome that was paid was lost or asked again"
    for name in ("best_prompt.json", "report.html"):
        assert (here / name).read_bytes() == (folder_there(head) / name).read_bytes()

    status, out, err = head.run(LIPO, *RUN, "--seed", "1", "--address", head.client, "--output", "mine")
    assert status == 2 and "another config (seed: 0, now 1)" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("where", "token", "message"),
    [
        ("client", "0" * 64, "the cluster refuses the token"),
        ("address", "0" * 64, "the cluster refuses the token"),
        ("address", "", "expected a token, found none"),
    ],
)
def test_a_wrong_token_is_one_line_and_status_2(head, where, token, message):
    status, out, err = head.run(
        LIPO, *RUN, "--output", "no", "--address", getattr(head, where), environment=head.token(token)
    )
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("lipo-e-ray: --address ") and message in err
    assert not (head.folder / "work" / "no").exists(), "a run folder was left behind"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:{dashboard-port}", "no Ray answers there"),
        ("ray://127.0.0.1:{port}", "another kind of port"),
        ("127.0.0.1:{ray-client-server-port}", "another kind of port"),
    ],
)
def test_a_wrong_address_is_one_line_and_status_2(head, address, message):
    status, out, err = head.run(LIPO, "evaluate", "no", "--address", address.format_map(head.ports))
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("lipo-e-ray: --address ") and message in err
