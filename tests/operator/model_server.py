#!/usr/bin/env python3
"""Stands in for llama-server on a process node: takes its options, and answers each request with its own alias.

SCRIPT_DIR is a folder: it is healthy while a file <alias>.up is there, and notes each request in the file
`log` as a line of alias, model and last message."""

import argparse
import json
import os
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

parser = argparse.ArgumentParser()
parser.add_argument("--alias", required=True)
parser.add_argument("--host", required=True)
parser.add_argument("--port", required=True, type=int)
args, _ = parser.parse_known_args()
folder = os.environ["SCRIPT_DIR"]


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def say(self, status, kind, body):
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def do_GET(self):
        if self.path == "/health":
            up = os.path.exists(os.path.join(folder, args.alias + ".up"))
            self.say(200 if up else 503, "text/plain", "")
        elif self.path == "/lora-adapters":
            self.say(200, "application/json", "[]")
        else:
            self.say(404, "text/plain", "")

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        line = " ".join([args.alias, asked["model"], asked["messages"][-1]["content"]])
        with open(os.path.join(folder, "log"), "a") as log:
            log.write(line + "\n")
        time.sleep(0.03)
        chunks = [
            {"choices": [{"index": 0, "delta": {"content": args.alias}}]},
            {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        ]
        body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
        self.say(200, "text/event-stream", body + "data: [DONE]\n\n")


ThreadingHTTPServer((args.host, args.port), Handler).serve_forever()
