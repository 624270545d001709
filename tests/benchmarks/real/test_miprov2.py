from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

from benchmarks.real.miprov2 import calls

METRICS = b"""# TYPE vllm:request_success_total counter
vllm:request_success_total{engine="0",finished_reason="stop",model_name="model"} 260.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="model"} 3.0
vllm:request_success_created{engine="0",finished_reason="stop",model_name="model"} 1.7e+09
vllm:prompt_tokens_total{engine="0",model_name="model"} 9876.0
"""


class Server(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/metrics" else 404)
        self.end_headers()
        self.wfile.write(METRICS)

    def log_message(self, *_):
        pass


def test_calls_are_all_requests_that_ended():
    with HTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            assert calls(f"http://127.0.0.1:{server.server_port}") == 263
        finally:
            server.shutdown()
            thread.join()
