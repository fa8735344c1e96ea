"""
What users of SB3 and sb3-contrib rely on, held for every model of this package.

``pytest tests/compatibility`` runs it alone; ``--slow`` adds what takes longer. The models are the table in ``models.py``.
Each file is one group of the concerns that SB3 and sb3-contrib test themselves:

======================  =====================================================================================================
file                    concerns of SB3 and sb3-contrib (their ``tests/test_*.py``)
======================  =====================================================================================================
test_run                run: learning in one and several environments, counters, train_freq, noise, schedules, temperatures
test_predict            predict: shapes, batches, determinism, devices, observations that do not fit
test_save_load          save_load, custom_objects: files and streams, parameters, environments, replay buffers, policies
test_callbacks          callbacks: each of SB3's, and what they see
test_logger             logger, tensorboard, monitor: formats, and the names that stock classes log
test_vec_envs           vec_envs, vec_monitor, vec_normalize, vec_stacked_obs, vec_extract_dict_obs, vec_check_nan
test_spaces             spaces, dict_env, cnn, envs, env_checker, preprocessing: observations and actions of every kind
test_replay_buffers     buffers, her, n_step_replay, gae: what is stored, and what is learned from
test_policy_objects     custom_policy, sde, train_eval_mode, distributions, utils, lstm, invalid_actions: policies as such
test_seeds              deterministic, utils (seeds)
test_identity           identity: every model learns (slow)
======================  =====================================================================================================

What belongs to one algorithm alone is in the flat files above this folder, which go further: test_save_load and test_policies
(the SimBa policies), test_extractor, test_sparsify, test_compiled_updates, test_drqv2, test_stream_ac, test_der.
SB3's tests of its own parts (atari_wrappers, noise, utils, vec_env's workers) hold without us and are not repeated.
"""
