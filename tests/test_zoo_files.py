"""Text of the RL Zoo's files, read without executing it."""

from pathlib import Path

import pytest
import torch as th
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike

from sb3_sparse.zoo.zoo_files import read_value, read_yaml

pytest.importorskip("yaml")
HYPERPARAMETERS = Path(__file__).parent.parent / "hyperparams"


def test_text_of_hyperparameter_files_is_read_as_the_zoo_evaluates_it() -> None:
    """All that the zoo and this package ship."""
    folder = Path(pytest.importorskip("rl_zoo3").__file__).parent / "hyperparams"
    names = {"nn": th.nn, "th": th, "RMSpropTFLike": RMSpropTFLike, "HerReplayBuffer": HerReplayBuffer}
    keys = ("policy_kwargs", "replay_buffer_class", "replay_buffer_kwargs", "monitor_kwargs", "normalize")
    texts = [
        text
        for file in [*folder.glob("*.yml"), *HYPERPARAMETERS.glob("*.yml")]
        for entry in read_yaml(file).values()
        for key in keys
        if isinstance(text := (entry or {}).get(key), str)
    ]
    assert len(texts) > 400
    for text in set(texts):
        assert read_value(text) == eval(text, dict(names)), text
    assert read_value("dict(b=dict(c=(1, -2.5), d=[None, True]), optimizer_class=th.optim.RMSprop)") == {
        "b": {"c": (1, -2.5), "d": [None, True]},
        "optimizer_class": th.optim.RMSprop,
    }


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch bomb')",
        "dict(net_arch=[__import__('os').system('touch bomb')])",
        "dict(**__import__('os').environ)",
        "{**{}}",
        "dict([('a', 1)])",
        "dict(a=lambda: 0)",
        "dict(activation_fn=nn.modules.activation.os)",
        "dict(activation_fn=os.system)",
        "dict(a=2 ** 8)",
        "[x for x in (1,)]",
        "f'{1}'",
        "dict(a=1",
        "nn",
    ],
)
def test_text_that_is_code_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not read"):
        read_value(text)
    assert not Path("bomb").exists()


def test_classes_in_the_zoo_s_files_are_read_as_names(tmp_path: Path) -> None:
    (tmp_path / "config.yml").write_text("policy_kwargs: {activation_fn: !!python/name:torch.nn.ReLU ''}\n")
    assert read_yaml(tmp_path / "config.yml") == {"policy_kwargs": {"activation_fn": "torch.nn.ReLU"}}
