"""What the harness costs at the paper's scale, and whether it computes the same there: one command on one 80 GB GPU.

    python -m benchmarks.gpu7b --output gpu7b.json           # at most 7.5 minutes; without network, data or weights
    python -m benchmarks.gpu7b --output gpu7b.json --smoke   # the same on a tiny model and any machine: seconds

A LLaMA2-7B of random weights is built on the GPU. Parts, in this order: the rate of a large matrix product; steps of every
method by the training loop of ``harness.train``, between them PEFT's own LoRA and DoRA in a plain Trainer, LoRA first and last
to show drift, full fine-tuning before the last; BeamLoRA's operation against the CPU; packed against padded against float32;
the rotary frequencies as loaded; decompositions; generation. ``harness.records.gpu7b``, the record, is written after each part.

``python -m harness.figures time_memory --gpu7b gpu7b.json`` draws time and memory beside the paper's.
"""
