"""llama.cpp's own HTTP server, started with the options of its program llama-server that the operator gives."""

import argparse
import os
import signal
import threading

import xllamacpp


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--alias", required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", required=True, type=int)
    parser.add_argument("--parallel", required=True, type=int)
    parser.add_argument("--ctx-size", required=True, type=int)
    return parser.parse_args()


def parameters(args):
    params = xllamacpp.CommonParams()
    params.model.path = args.model
    params.model_alias = {args.alias} if isinstance(params.model_alias, set) else [args.alias]
    params.hostnames = [args.host]
    params.port = args.port
    params.n_parallel = args.parallel
    params.n_ctx = args.ctx_size
    # llama.cpp is much slower with more threads than free cores.
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    params.cache_ram_mib = 0
    return params


def main():
    stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    server = xllamacpp.Server(parameters(arguments()))
    print("listening", server.listening_address, flush=True)
    stop.wait()
    del server


main()
