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
    parser.add_argument("--lora", action="append", default=[], help="LoRA files, one or several with commas")
    parser.add_argument("--lora-init-without-apply", action="store_true", help="with scale 0, for requests to set")
    return parser.parse_args()


def adapter(path, scale):
    info = xllamacpp.CommonAdapterLoraInfo()
    info.path = path
    info.scale = scale
    return info


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
    # Ids are by order.
    files = [path for value in args.lora for path in value.split(",") if path]
    scale = 0.0 if args.lora_init_without_apply else 1.0
    params.lora_adapters = [adapter(path, scale) for path in files]
    params.lora_init_without_apply = args.lora_init_without_apply
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
