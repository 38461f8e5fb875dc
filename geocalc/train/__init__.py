"""Training: recipe, loss, loop, checkpoints and registration."""

from __future__ import annotations

from geocalc.lazy import public_names

__all__, __getattr__, __dir__ = public_names(
    __name__,
    {
        "BatchLoader": "loader",
        "BestEvaluation": "stopping",
        "CHECKPOINT": "run_files",
        "EnergyTask": "task",
        "Evaluation": "loop",
        "FinalStage": "settings",
        "FittedReferences": "recipe",
        "METRICS": "run_files",
        "MicroBatch": "loader",
        "Model": "run",
        "Optimization": "settings",
        "OtherLevel": "recipe",
        "Recipe": "recipe",
        "Run": "run",
        "Schedule": "schedule",
        "Start": "recipe",
        "Training": "settings",
        "TrainingProgress": "loop",
        "TrainingTask": "loop",
        "batch_loader": "loader",
        "batches": "loader",
        "best_evaluation": "stopping",
        "final_model": "stopping",
        "fit": "loop",
        "is_over": "stopping",
        "load_checkpoint": "checkpoint",
        "load_samples": "task",
        "make_folder": "run_files",
        "mean_error": "score",
        "parse_recipe": "recipe",
        "read_log": "run_files",
        "read_recipe": "recipe",
        "register_model": "register",
        "start_training": "run",
        "steps_done": "checkpoint",
        "take_step": "steps",
        "train": "task",
        "tuned_values": "finetune",
    },
)
