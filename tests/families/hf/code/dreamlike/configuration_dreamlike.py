from transformers import PretrainedConfig


class DreamLikeConfig(PretrainedConfig):
    model_type = "Dream"

    def __init__(
        self,
        vocab_size=48,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=24,
        rope_theta=100.0,
        tie_word_embeddings=True,
        **kwargs,
    ):
        self.vocab_size, self.hidden_size = vocab_size, hidden_size
        self.num_hidden_layers, self.num_attention_heads = num_hidden_layers, num_attention_heads
        self.max_position_embeddings, self.rope_theta = max_position_embeddings, rope_theta
        super().__init__(tie_word_embeddings=tie_word_embeddings, **kwargs)
