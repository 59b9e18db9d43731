"""The README.md of an exported model: what it is, how to talk to it, how it was made."""

from collections.abc import Mapping

from dialogue_format import ASSISTANT_HEADING, STOP_STRING, USER_HEADING

_CARD = """---
base_model: {base}
library_name: transformers
pipeline_tag: text-generation
---

# {name}

{base} fine-tuned by principle engraving, the last step of SELF-ALIGN
([arXiv 2305.03047](https://arxiv.org/abs/2305.03047),
[arXiv 2310.05910](https://arxiv.org/abs/2310.05910)): the base
model wrote the training replies itself, led by written principles, and was then trained on them
without the principles.

## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForCausalLM.from_pretrained("{name}", dtype="auto")
prompt = tokenizer.apply_chat_template(
    [{{"role": "user", "content": "Who are you?"}}],
    add_generation_prompt=True, return_tensors="pt", return_dict=True,
)
reply = model.generate(**prompt, tokenizer=tokenizer)  # stops at the stop string
print(tokenizer.decode(reply[0, prompt["input_ids"].shape[1]:]))
```

A reply ends with `{stop}` in front of the next turn. transformers takes this stop string from the
generation config. Servers that read stop strings from the request need it there: for vLLM
`"stop": [{stop}]`, for llama.cpp `--reverse-prompt '{heading}'` or `"stop": [{stop}]`. The chat
template already holds the beginning-of-sequence token.

```
(system prompt)

{heading}
(message)

{assistant}
(reply)

{heading}
```

## Training

| | |
|---|---|
{rows}

## Licence

The weights derive from {base}: its licence and those of the prompt collections apply to them.
"""

_SETTINGS = {
    "bits": "bits of the base in training",
    "lora_r": "adapter rank",
    "lora_alpha": "adapter alpha",
    "learning_rate": "learning rate",
    "lr_scheduler_type": "schedule",
    "warmup_steps": "warm-up (steps, or share of the steps)",
    "num_train_epochs": "epochs",
    "examples_per_step": "examples a step",
    "max_grad_norm": "gradient norm limit",
    "source_max_len": "longest prompt, tokens",
    "target_max_len": "longest reply, tokens",
    "seed": "seed",
}


def model_card(base: str, name: str, training: Mapping[str, object], dtype: str) -> str:
    """A model card in Markdown. `training` is the summary that fine-tuning wrote, or empty."""
    settings = training.get("settings", {})
    rows = [("weights", dtype)]
    if settings.get("full_finetune"):
        rows.append(("method", "all weights"))
        hidden = ("bits", "lora_r", "lora_alpha")
    else:
        rows.append(("method", "adapter (LoRA) on all linear layers, merged"))
        hidden = ()
    rows += [
        (label, settings[key])
        for key, label in _SETTINGS.items()
        if key in settings and key not in hidden
    ]
    for key in ("examples", "tokens", "learned_tokens", "nothing_to_learn", "unfinished"):
        if key in training.get("data", {}):
            rows.append((f"data: {key.replace('_', ' ')}", f"{training['data'][key]:,}"))
    rows += [(key, training[key]) for key in ("steps", "last_loss") if key in training]
    for moment in ("before", "after"):
        for key, value in training.get(f"held_out_{moment}", {}).items():
            rows.append((f"held out, {moment}: {key.replace('_', ' ')}", f"{value:.4g}"))
    return _CARD.format(
        base=base,
        name=name,
        stop=repr(STOP_STRING).replace("'", '"'),
        heading=USER_HEADING,
        assistant=ASSISTANT_HEADING,
        rows="\n".join(f"| {label} | {value} |" for label, value in rows),
    )
