"""Random generators of one's own that follow SB3's seeds."""

import torch as th


def seed_generator(generator: th.Generator, seed: int | None) -> None:
    """
    Seed a generator as SB3 seeds random numbers: by the model's seed, or, without one, by the state of torch's default
    generator, which ``set_random_seed`` sets. That one does not move, so what it goes on to draw is what it would have drawn.

    :param generator: Generator, on any device
    :param seed: Seed, or None to take it from torch's default generator
    """
    if seed is None:
        with th.random.fork_rng(devices=[]):
            seed = int(th.randint(2**63 - 1, (), device="cpu"))
    generator.manual_seed(seed)


def new_generator(device: th.device) -> th.Generator:
    """
    Make a generator that is seeded by torch's default one.

    :param device: Its device
    """
    generator = th.Generator(device)
    seed_generator(generator, None)
    return generator
