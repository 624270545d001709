from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from benchmarks.real.served import Search, calls, load, measure, parser
from tests.task_files import write_task

METRICS = b"""# TYPE vllm:request_success_total counter
vllm:request_success_total{engine="0",finished_reason="stop",model_name="model"} %d.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="model"} 3.0
vllm:request_success_created{engine="0",finished_reason="stop",model_name="model"} 1.7e+09
vllm:prompt_tokens_total{engine="0",model_name="model"} 9876.0
"""


class Server(HTTPServer):
    ended = 260


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/metrics" else 404)
        self.end_headers()
        self.wfile.write(METRICS % self.server.ended)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def test_calls_are_all_requests_that_ended(server):
    assert calls(f"http://127.0.0.1:{server.server_port}") == 263


def test_a_search_pays_what_the_server_ended_until_its_prompt_is_scored(server, tmp_path, capsys):
    folder = write_task(tmp_path / "task")
    url, found = f"http://127.0.0.1:{server.server_port}", tmp_path / "found.jsonl"
    arguments = parser("").parse_args([str(folder), "--url", url, "--found", str(found), "--test-size", "4"])

    def search():
        server.ended += 1200

        def score():
            server.ended += 4
            return 0.25

        return score

    measure("rival", arguments, load(arguments), search)
    assert [Search(**json.loads(line)) for line in found.read_text().splitlines()] == [
        Search("rival", "task", 0, 4, 1200, 0.25, 4)
    ]
    assert capsys.readouterr().out == "rival on task, seed 0: 25.0% of 4 test examples, 1,200 calls\n"
