"""The tasks of the DeepMind Control Suite, written down so that they can be registered without importing dm_control."""

#: Task names by domain, as in ``dm_control.suite.TASKS_BY_DOMAIN`` of dm_control 1.0.50.
SUITE_TASKS: dict[str, tuple[str, ...]] = {
    "acrobot": ("swingup", "swingup_sparse"),
    "ball_in_cup": ("catch",),
    "cartpole": ("balance", "balance_sparse", "swingup", "swingup_sparse", "two_poles", "three_poles"),
    "cheetah": ("run",),
    "dog": ("stand", "walk", "trot", "run", "fetch"),
    "finger": ("spin", "turn_easy", "turn_hard"),
    "fish": ("upright", "swim"),
    "hopper": ("stand", "hop"),
    "humanoid": ("stand", "walk", "run", "run_pure_state"),
    "humanoid_CMU": ("stand", "walk", "run"),
    "lqr": ("lqr_2_1", "lqr_6_2"),
    "manipulator": ("bring_ball", "bring_peg", "insert_ball", "insert_peg"),
    "pendulum": ("swingup",),
    "point_mass": ("easy", "hard"),
    "quadruped": ("walk", "run", "escape", "fetch"),
    "reacher": ("easy", "hard"),
    "stacker": ("stack_2", "stack_4"),
    "swimmer": ("swimmer6", "swimmer15"),
    "walker": ("stand", "walk", "run"),
}

#: Time limits in seconds of the domains that have none of their own: 1000 control steps, as everywhere in the suite.
TIME_LIMITS: dict[str, float] = {"lqr": 30.0}

#: Domains that draw the model itself, not only the initial state, from the task's random stream.
RANDOM_MODEL_DOMAINS: frozenset[str] = frozenset({"lqr"})
