"""Shows what a launch would do: memory plan, first assembled prompt, token counts. No weights."""

import logging

from assembled_prompt import USER_TURN, own_part
from engine.engine import EngineSettings, plan_memory
from engine.tokenizer import load_tokenizer
from launch_work import LaunchWork

logger = logging.getLogger(__name__)


def show_dry_run(settings: EngineSettings, work: LaunchWork) -> None:
    """Logs what the first group of this launch would do; ValueError where it couldn't."""
    tokenizer = load_tokenizer(settings.tokenizer_path or settings.model_dir)
    prompts = work.shares[0]
    own_tokens = [
        len(tokenizer.encode_continuation(own_part(p["instruction"], p["input"]), USER_TURN))
        for p in prompts
    ]
    room = settings.max_own_tokens - settings.sampling.max_new_tokens
    plan = plan_memory(settings)
    logger.info("%s", plan)
    if prompts:
        first = own_part(prompts[0]["instruction"], prompts[0]["input"])
        logger.info("the first assembled prompt:\n%s%s", settings.prefix_text, first)
    logger.info(
        "principle prompt: %d tokens; %d user prompts in this group: %d to %d tokens each, "
        "%d in all, %d too long for the %d that leave room for --max_new_tokens",
        *(len(tokenizer.encode_prefix(settings.prefix_text)), len(prompts)),
        *(min(own_tokens, default=0), max(own_tokens, default=0), sum(own_tokens)),
        *(sum(count > room for count in own_tokens), room),
    )
    plan.check()
