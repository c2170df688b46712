"""Fine-tune a causal language model with BeamLoRA on a text column, and export an ordinary LoRA adapter."""

import argparse

import torch
from datasets import load_dataset
from peft import get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForLanguageModeling, Trainer, TrainingArguments

from beamlora import BeamLoraCallback, BeamLoraConfig, export_lora  # inside PEFT: from peft


def train(args: argparse.Namespace) -> None:
    """Adapter and tokenizer in ``output_dir``, the ordinary LoRA adapter in ``output_dir/lora``."""
    tokenizer = AutoTokenizer.from_pretrained(args.base_model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    on_gpu = torch.cuda.is_available()
    model = AutoModelForCausalLM.from_pretrained(args.base_model, dtype=torch.bfloat16 if on_gpu else torch.float32)

    if args.data_path.endswith(".jsonl"):
        data = load_dataset("json", data_files=args.data_path, split="train")
    else:
        data = load_dataset(args.data_path, split="train")
    data = data.map(
        lambda rows: tokenizer(rows[args.text_column], truncation=True, max_length=args.cutoff_len),
        batched=True,
        remove_columns=data.column_names,
    )

    steps = args.num_epochs * -(-len(data) // args.batch_size)
    config = BeamLoraConfig(
        r=args.rank,
        lora_alpha=2 * args.rank,
        lora_dropout=args.lora_dropout,
        target_modules=args.target_modules.split(",") if args.target_modules else "all-linear",
        p_init=args.p_init,
        horizon_steps=2 * steps // 3,
        delta_t=max(4, 2 * steps // 3 // (args.operations + 1) // 2 * 2),  # even, and one interval to adapt
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(model, config)
    model.print_trainable_parameters()

    beam = BeamLoraCallback()
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            args.output_dir,
            num_train_epochs=args.num_epochs,
            per_device_train_batch_size=args.batch_size,
            learning_rate=args.learning_rate,
            bf16=on_gpu,
            logging_steps=10,
            save_strategy="no",
            report_to="none",
        ),
        train_dataset=data,
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        callbacks=[beam],
    )
    trainer.train()
    for operation in beam.records:
        pruned = sum(module["K"] for module in operation["modules"])
        print(f"after step {operation['step']}: p = {operation['p']:.3f}, {pruned} ranks pruned and expanded")
    model.save_pretrained(args.output_dir)
    tokenizer.save_pretrained(args.output_dir)
    export_lora(model, f"{args.output_dir}/lora")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--base_model", default="meta-llama/Llama-3.2-3B", help="name on the hub, or a folder")
    parser.add_argument("--data_path", default="timdettmers/openassistant-guanaco", help="name on the hub, or a JSONL file")
    parser.add_argument("--text_column", default="text", help="what is learned")
    parser.add_argument("--output_dir", default="beamlora", help="where the adapters are written")
    parser.add_argument("--batch_size", type=int, default=16, help="sequences per step")
    parser.add_argument("--num_epochs", type=int, default=3, help="passes over the data")
    parser.add_argument("--learning_rate", type=float, default=3e-4, help="of AdamW")
    parser.add_argument("--cutoff_len", type=int, default=512, help="tokens of a sequence")
    parser.add_argument("--rank", type=int, default=64, help="r; lora_alpha is twice that")
    parser.add_argument("--lora_dropout", type=float, default=0.05, help="dropout before A")
    parser.add_argument("--target_modules", default="", help="comma-separated; none are all linear layers")
    parser.add_argument("--p_init", type=float, default=0.95, help="first threshold of the cumulative score")
    parser.add_argument("--operations", type=int, default=8, help="how often ranks are pruned and expanded, at least")
    train(parser.parse_args())
