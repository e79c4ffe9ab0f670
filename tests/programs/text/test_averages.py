from typing import Any

import torch

from di4c_plugin.programs.text.averages import averaged, averages, names, new_average
from tests.stand_ins.text import stand_in, stand_in_parts


def host() -> Any:
    module = stand_in.Host(stand_in.config(), stand_in_parts.Tokenizer())
    module.noise = stand_in_parts.Noise(learnt=True)
    module.ema = stand_in_parts.Average(module._weights(), 0.5)
    return module


def test_the_order_is_the_hosts() -> None:
    module = host()
    parameters = [*module.backbone.parameters(), *module.noise.parameters()]
    assert all(a is b for (_, a), b in zip(averaged(module), parameters, strict=True))
    assert names(module)[0] == "vocab_embed.embedding"
    assert names(module)[-1] == "noise.bias"


def test_a_new_average_has_the_students_weights_and_the_hosts_decay() -> None:
    student = stand_in.student()
    ema = student.ema
    assert isinstance(ema, stand_in_parts.Average)
    assert ema.decay == 0.5
    assert len(ema.shadow_params) == len(names(student))
    found = dict(zip(names(student), ema.shadow_params, strict=True))
    assert "latent_projection.0.weight" in found
    own = dict(student.backbone.named_parameters())
    assert all(torch.equal(found[name], own[name]) for name in own)
    assert all(found[name] is not own[name] for name in own)


def test_the_hosts_update_reaches_every_new_parameter() -> None:
    student = stand_in.student()
    before = averages(student)
    with torch.no_grad():
        for p in student.backbone.parameters():
            p.add_(2)
    student.ema.update(student._weights())
    for name, value in averages(student).items():
        torch.testing.assert_close(value, before[name] + 1)


def test_frozen_weights_are_not_averaged() -> None:
    module = host()
    module.backbone.sigma_map.requires_grad_(False)
    ema = new_average(module.ema, module)
    assert len(ema.shadow_params) == len(names(module))
    assert not any("sigma_map" in name for name in names(module))
    module.ema = ema
    assert "sigma_map.mlp.0.weight" not in averages(module)


def test_averages_are_the_backbones_by_name_and_copies() -> None:
    module = host()
    found = averages(module)
    assert found.keys() == dict(module.backbone.named_parameters()).keys()
    found["vocab_embed.embedding"].zero_()
    assert averages(module)["vocab_embed.embedding"].any()


def test_without_averages_the_weights_stand_for_them() -> None:
    module = host()
    module.ema = None
    assert new_average(None, module) is None
    assert torch.equal(
        averages(module)["vocab_embed.embedding"], module.backbone.vocab_embed.embedding
    )
