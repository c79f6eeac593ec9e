"""Architecture: a decoder assembled by saying which norm, feed-forward, position and cache it uses."""

from llmc.calls import public
from llmc.config.config import Config


@public
class Architecture(Config):
    """The configuration of a decoder that has no model_type of its own; `llmc.Model` makes and trains it.

    It is written as `model_type: "llmc"`, which llmc opens and transformers does not. Modules have LLaMA's names.

    Parameters
    ----------
    vocab_size, hidden_size, num_hidden_layers, num_attention_heads : int
    num_key_value_heads : int, optional
        Heads of keys and values, which groups of query heads share; by default one for each.
    head_dim : int, optional
        By default hidden_size / num_attention_heads.
    intermediate_size : int or list of int, optional
        Width of the feed-forward; by default 4 hidden_size. A list has one value a layer, here and below.
    norm : "rms", "layer" or "bare"
        RMSNorm, LayerNorm, or LayerNorm without weights.
    norm_place : "in", "out", "sum" or ("in", "out")
        Before a branch, on what it gives, after the addition, or on both sides of a branch.
    final_norm : bool
    position : "rope", "learned" or "none"
    feed_forward : "gated", "mlp", or a list of them
        down(act(gate(x)) * up(x)), or down(act(up(x))).
    hidden_act : str
        Any of transformers' activations that llmc has.
    order : "sequential" or "parallel"
        Attention, then feed-forward; or both reading the stream through one norm.
    bias : bool, or some of ("qkv", "o", "mlp")
        Which linears have biases.
    sliding_window : int, None, or a list of them
        Keys a query sees, its own included; None: all before it.
    rope_theta : float or list of float
    max_position_embeddings : int
    tie_word_embeddings : bool
        Whether the head is the embedding.
    norm_eps, initializer_range : float
    rope_scaling : dict, optional
        As in config.json of LLaMA.
    embd_pdrop, resid_pdrop, attn_pdrop : float
        Dropout of the embedding, of what branches give, and of attention patterns.
    bos_token_id, eos_token_id, pad_token_id : int, optional
    dtype : str
        What config.json says of the weights' dtype.

    Raises
    ------
    ConfigError
        When a value is impossible, or kinds do not go together; it says which.
    """

    def __init__(
        self, vocab_size, hidden_size, num_hidden_layers, num_attention_heads, num_key_value_heads=None, head_dim=None,
        intermediate_size=None, norm="rms", norm_place="in", final_norm=True, position="rope", feed_forward="gated",
        hidden_act="silu", order="sequential", bias=False, sliding_window=None, rope_theta=10000.0,
        max_position_embeddings=2048, tie_word_embeddings=False, norm_eps=1e-5, initializer_range=0.02,
        rope_scaling=None, embd_pdrop=0.0, resid_pdrop=0.0, attn_pdrop=0.0, bos_token_id=None, eos_token_id=None,
        pad_token_id=None, dtype="float32",
    ):  # fmt: skip
        fields = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        if position != "rope" and rope_theta == 10000.0:
            del fields["rope_theta"]
        super().__init__("llmc", **fields)
