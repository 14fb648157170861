"""What a user may configure: a run (`run_config`), an evaluation (`evaluation_recipe`), and presets. Torch-free.

Start with `run_config.RunConfig`, then `presets.resolve`, which merges a user's overrides over a preset.
"""
