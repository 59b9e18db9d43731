"""Which layers get the adapter."""

import pytest
from engraved_model import add_adapter
from engraving_command import UserError
from transformers import LlamaConfig, LlamaForCausalLM


def adapted(targets):
    """The names of the layers of a tiny model that an adapter was put on."""
    config = LlamaConfig(
        vocab_size=16,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    settings = {"rank": 2, "alpha": 4, "dropout": 0, "bits": 16, "checkpointing": False}
    model = add_adapter(LlamaForCausalLM(config), targets=targets, **settings)
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    return {name.split(".lora_")[0].rpartition(".")[2] for name in trained}


def test_all_linear_layers_but_the_head_or_the_named_ones():
    attention = {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert adapted("all-linear") == attention | {"gate_proj", "up_proj", "down_proj"}
    assert adapted("q_proj,k_proj,v_proj,o_proj") == attention


@pytest.mark.parametrize("targets", ["q_proj,qproj", "", "layers"])
def test_a_layer_that_the_model_lacks_is_refused(targets):
    with pytest.raises(UserError, match=r"no layer .*it has down_proj, gate_proj"):
        adapted(targets)
