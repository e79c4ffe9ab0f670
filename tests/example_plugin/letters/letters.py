"""The network, its training and the data of the program. Its DiT is that of our tests."""

import torch
from lightning.pytorch import LightningModule
from torch.utils.data import DataLoader

from tests.networks.backbone import Backbone

ACCELERATOR = "gpu"
ALPHABET = "abcdef_"  # the last letter is the mask
MASK = 6


class Letters(LightningModule):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.backbone = Backbone()

    def training_step(self, x, index):
        share = torch.rand(len(x), 1)
        noisy = torch.where(torch.rand(x.shape) < share, MASK, x)
        logits = self.backbone(noisy, torch.zeros(len(x)))
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), x.flatten())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=self.config.rate)

    def load(self, path):
        self.load_state_dict(torch.load(path)["state_dict"])

    @torch.no_grad()
    def sample(self, count, steps):
        """Reveal the positions from left to right; the number of steps is theirs."""
        x = torch.full((count, self.config.net.length), MASK)
        for position in range(self.config.net.length):
            logits = self.backbone(x, torch.zeros(count))[:, position, :MASK]
            x[:, position] = torch.distributions.Categorical(logits=logits).sample()
        return x


def loader(batch):
    pairs = torch.randint(MASK, (64, 3), generator=torch.Generator().manual_seed(0))
    return DataLoader(pairs.repeat_interleave(2, 1), batch_size=batch, shuffle=True)


def texts(x):
    return ["".join(ALPHABET[letter] for letter in row) + "\n" for row in x.tolist()]
