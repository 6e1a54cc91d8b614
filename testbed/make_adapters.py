"""Makes two LoRA adapters for a GGUF model: arguments are the model and the folder for one.gguf and two.gguf.

Their weights are random from fixed seeds, and large enough that each changes what the model says.
"""

import os
import sys

import gguf
import numpy

RANK = 4
DEVIATION = 0.15
SEEDS = {"one.gguf": 1, "two.gguf": 2}


def write(model, path, seed):
    writer = gguf.GGUFWriter(path, model.fields["general.architecture"].contents())
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(RANK))
    random = numpy.random.default_rng(seed)

    def add(name, shape):
        writer.add_tensor(name, random.normal(0, DEVIATION, shape).astype(numpy.float32))

    for tensor in model.tensors:
        if tensor.name.endswith(("attn_q.weight", "attn_v.weight")):
            # GGUF counts dimensions from the innermost, numpy from the outermost.
            inputs, outputs = (int(size) for size in tensor.shape[:2])
            add(tensor.name + ".lora_a", (RANK, inputs))
            add(tensor.name + ".lora_b", (outputs, RANK))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    model, folder = sys.argv[1:]
    model = gguf.GGUFReader(model)
    for name, seed in SEEDS.items():
        write(model, os.path.join(folder, name), seed)


main()
