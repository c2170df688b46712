"""Rows for PEFT's test matrices, by the file and the list that they belong to. ``set_init_weights_false`` in
testing_utils.py takes ``BeamLoraConfig`` where it takes ``LoraConfig``."""

from beamlora import BeamLoraConfig

#: tests/test_custom_models.py, TEST_CASES
CUSTOM_MODELS = [
    ("Vanilla MLP 1 BeamLoRA", "MLP", BeamLoraConfig, {"target_modules": "lin0"}),
    ("Vanilla MLP 2 BeamLoRA", "MLP", BeamLoraConfig, {"target_modules": ["lin0"]}),
    ("Vanilla MLP 3 BeamLoRA", "MLP", BeamLoraConfig, {"target_modules": ["lin1"]}),
    ("Vanilla MLP 4 BeamLoRA", "MLP", BeamLoraConfig, {"target_modules": ["lin0", "lin1"]}),
    ("Vanilla MLP 5 BeamLoRA", "MLP", BeamLoraConfig, {"target_modules": ["lin0"], "modules_to_save": ["lin1"]}),
    ("Vanilla MLP 6 BeamLoRA", "MLP", BeamLoraConfig, {"target_modules": ["lin0"], "lora_alpha": 4, "lora_dropout": 0.1}),
    ("Vanilla MLP 7 BeamLoRA released", "MLP", BeamLoraConfig, {"target_modules": ["lin0"], "flavor": "released"}),
    ("Vanilla MLP 8 BeamLoRA without r", "MLP", BeamLoraConfig, {"target_modules": ["lin0"], "gate_times_r": False}),
    ("Embedding + transformers Conv1D 1 BeamLoRA", "EmbConv1D", BeamLoraConfig, {"target_modules": ["conv1d"]}),
]
#: tests/test_custom_models.py, MULTIPLE_ACTIVE_ADAPTERS_TEST_CASES
MULTIPLE_ACTIVE_ADAPTERS = [
    (
        "BeamLoRA Same",
        "beamlora",
        BeamLoraConfig,
        {"target_modules": ["lin0"], "init_lora_weights": False},
        {"target_modules": ["lin0"], "init_lora_weights": False},
    ),
    (
        "BeamLoRA Different",
        "beamlora",
        BeamLoraConfig,
        {"target_modules": ["lin0"], "init_lora_weights": False},
        {"target_modules": ["lin1"], "init_lora_weights": False},
    ),
]
#: tests/test_config.py, ALL_CONFIG_CLASSES
CONFIG_CLASSES = [(BeamLoraConfig, {})]
#: tests/test_decoder_models.py, ALL_CONFIGS
DECODER_MODELS = [
    (
        BeamLoraConfig,
        {
            "task_type": "CAUSAL_LM",
            "r": 8,
            "lora_alpha": 32,
            "target_modules": None,
            "lora_dropout": 0.05,
            "bias": "none",
        },
    ),
]
