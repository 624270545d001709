import json
import socket

from benchmarks.machine import machine, write


def test_the_machine_has_no_name_and_results_say_where_they_were_measured(tmp_path, capsys):
    write(tmp_path / "results" / "some.json", {"rows": [1]})
    document = json.loads((tmp_path / "results" / "some.json").read_text())
    assert document == {"machine": machine(), "rows": [1]}
    assert {"cpu", "cores", "memory_gib", "gpus", "python", "torch", "ray"} <= set(document["machine"])
    assert socket.gethostname() not in json.dumps(document)
