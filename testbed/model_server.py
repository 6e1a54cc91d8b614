"""Serves one GGUF model with llama.cpp's own HTTP server (OpenAI-compatible), until stdin ends or SIGTERM.

The testbed keeps the other end of stdin open, so the server stops with it, however the testbed ends.
"""

import argparse
import signal
import sys
import threading

import xllamacpp


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True, help="path of the GGUF file")
    parser.add_argument("--alias", required=True, help="the name that answers carry in `model`")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", required=True, type=int)
    parser.add_argument("--parallel", required=True, type=int, help="slots: requests decoded at once")
    parser.add_argument("--slot-context", required=True, type=int, help="tokens of context a slot")
    parser.add_argument("--threads", required=True, type=int)
    parser.add_argument("--adapter", action="append", default=[], help="LoRA file, loaded with scale 0")
    return parser.parse_args()


def adapter(path):
    info = xllamacpp.CommonAdapterLoraInfo()
    info.path = path
    info.scale = 0.0
    return info


def parameters(args):
    params = xllamacpp.CommonParams()
    params.model.path = args.model
    params.model_alias = {args.alias} if isinstance(params.model_alias, set) else [args.alias]
    params.hostnames = [args.host]
    params.port = args.port
    params.n_parallel = args.parallel
    # llama.cpp splits the context evenly between the slots.
    params.n_ctx = args.slot_context * args.parallel
    params.cpuparams.n_threads = args.threads
    params.cpuparams_batch.n_threads = args.threads
    params.endpoint_metrics = True
    params.endpoint_slots = True
    # The prompt cache in host memory would grow to gigabytes for nothing here.
    params.cache_ram_mib = 0
    params.lora_adapters = [adapter(path) for path in args.adapter]
    params.lora_init_without_apply = True
    return params


def main():
    stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())

    def follow_stdin():
        while sys.stdin.buffer.read(4096):
            pass
        stop.set()

    threading.Thread(target=follow_stdin, daemon=True).start()
    server = xllamacpp.Server(parameters(arguments()))
    print("listening", server.listening_address, flush=True)
    stop.wait()
    del server


if __name__ == "__main__":
    main()
