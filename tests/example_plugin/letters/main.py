"""A program of its own, in MDLM's style: masked diffusion of letters. Somebody else's code."""

import sys

import hydra
import letters
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint


@hydra.main(version_base=None, config_path="settings", config_name="letters")
def main(config):
    seed_everything(config.random_seed)
    model = letters.Letters(config)  # looked up when the job starts
    if config.task == "draw":
        model.load(config.weights)
        sys.stdout.writelines(letters.texts(model.sample(config.batch, config.steps)))
        return
    trainer = Trainer(
        accelerator=letters.ACCELERATOR,
        devices=1,
        max_steps=config.updates,
        callbacks=[ModelCheckpoint("checkpoints", save_last=True)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, letters.loader(config.batch))


if __name__ == "__main__":
    main()
