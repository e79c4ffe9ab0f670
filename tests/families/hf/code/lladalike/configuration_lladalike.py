from transformers import PretrainedConfig


class LladaLikeConfig(PretrainedConfig):
    model_type = "llada"

    def __init__(
        self,
        d_model=16,
        n_layers=2,
        n_heads=2,
        max_sequence_length=24,
        embedding_size=48,
        vocab_size=40,
        weight_tying=False,
        **kwargs,
    ):
        self.d_model, self.n_layers, self.n_heads = d_model, n_layers, n_heads
        self.max_sequence_length, self.embedding_size = max_sequence_length, embedding_size
        self.vocab_size, self.weight_tying = vocab_size, weight_tying
        super().__init__(**kwargs)

    @property
    def hidden_size(self):
        return self.d_model
