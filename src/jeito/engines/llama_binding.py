"""llama.cpp's C API, loaded from a wheel by cffi. Knows its structs and checks them; knows nothing of slots or rows."""

import importlib.util
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from jeito import home
from jeito.errors import EngineError

WHEEL = "xllamacpp"
SUPPORTED = "2026.10.11549"

# Structs of llama.h as of the build in SUPPORTED (b11549). The order of the fields is the ABI: see `_check_structs`.
_CDEF = """
typedef struct llama_model llama_model;
typedef struct llama_context llama_context;
typedef struct llama_vocab llama_vocab;
typedef struct llama_adapter_lora llama_adapter_lora;
typedef struct llama_memory_i * llama_memory_t;
typedef int32_t llama_pos;
typedef int32_t llama_token;
typedef int32_t llama_seq_id;
typedef bool (*llama_progress_callback)(float progress, void * user_data);
typedef void (*ggml_log_callback)(int level, const char * text, void * user_data);

struct llama_model_params {
    void * devices;
    const void * tensor_buft_overrides;
    int32_t n_gpu_layers;
    int32_t split_mode;
    int32_t load_mode;
    int32_t lazy_mode;
    int32_t main_gpu;
    const float * tensor_split;
    llama_progress_callback progress_callback;
    void * progress_callback_user_data;
    const void * kv_overrides;
    bool vocab_only;
    bool check_tensors;
    bool use_extra_bufts;
    bool no_host;
    bool no_alloc;
    bool load_mtp;
};
struct llama_context_params {
    uint32_t n_ctx;
    uint32_t n_batch;
    uint32_t n_ubatch;
    uint32_t n_seq_max;
    uint32_t n_rs_seq;
    uint32_t n_outputs_max;
    uint32_t n_outputs_max_per_seq;
    int32_t n_threads;
    int32_t n_threads_batch;
    int32_t ctx_type;
    int32_t rope_scaling_type;
    int32_t pooling_type;
    int32_t attention_type;
    int32_t flash_attn_type;
    float rope_freq_base;
    float rope_freq_scale;
    float yarn_ext_factor;
    float yarn_attn_factor;
    float yarn_beta_fast;
    float yarn_beta_slow;
    uint32_t yarn_orig_ctx;
    float defrag_thold;
    void * cb_eval;
    void * cb_eval_user_data;
    int32_t type_k;
    int32_t type_v;
    size_t moe_cache_size;
    void * abort_callback;
    void * abort_callback_data;
    bool embeddings;
    bool offload_kqv;
    bool no_perf;
    bool op_offload;
    bool swa_full;
    bool kv_unified;
    void * samplers;
    size_t n_samplers;
    llama_context * ctx_other;
};
struct llama_batch {
    int32_t n_tokens;
    llama_token * token;
    float * embd;
    llama_pos * pos;
    int32_t * n_seq_id;
    llama_seq_id ** seq_id;
    int8_t * logits;
};

struct llama_model_params llama_model_default_params(void);
struct llama_context_params llama_context_default_params(void);
void llama_backend_init(void);
size_t strlen(const char * text);
void llama_log_set(ggml_log_callback log_callback, void * user_data);
bool llama_supports_gpu_offload(void);
llama_model * llama_model_load_from_file(const char * path, struct llama_model_params params);
void llama_model_free(llama_model * model);
llama_context * llama_init_from_model(llama_model * model, struct llama_context_params params);
void llama_free(llama_context * ctx);
uint32_t llama_n_ctx(const llama_context * ctx);
uint32_t llama_n_batch(const llama_context * ctx);
llama_memory_t llama_get_memory(const llama_context * ctx);
const llama_vocab * llama_model_get_vocab(const llama_model * model);
int32_t llama_model_n_ctx_train(const llama_model * model);
int32_t llama_model_n_layer(const llama_model * model);
int32_t llama_model_rope_type(const llama_model * model);
llama_adapter_lora * llama_adapter_lora_init(llama_model * model, const char * path_lora);
int32_t llama_set_adapters_lora(llama_context * ctx, llama_adapter_lora ** adapters, size_t n_adapters, float * scales);
int32_t llama_set_adapter_cvec(llama_context * ctx, const float * data, size_t len, int32_t n_embd,
                               int32_t il_start, int32_t il_end);
int32_t llama_model_meta_val_str(const llama_model * model, const char * key, char * buf, size_t buf_size);
int32_t llama_model_meta_count(const struct llama_model * model);
int32_t llama_model_meta_key_by_index(const struct llama_model * model, int32_t i, char * buf, size_t buf_size);
int32_t llama_model_meta_val_str_by_index(const struct llama_model * model, int32_t i, char * buf, size_t buf_size);
int32_t llama_model_ftype(const llama_model * model);
const char * llama_ftype_name(int32_t ftype);
uint64_t llama_model_size(const llama_model * model);
bool llama_model_has_encoder(const llama_model * model);
bool llama_model_has_decoder(const llama_model * model);
bool llama_model_is_recurrent(const llama_model * model);
bool llama_model_is_hybrid(const llama_model * model);
bool llama_model_is_diffusion(const llama_model * model);
const char * llama_model_chat_template(const llama_model * model, const char * name);
int32_t llama_vocab_n_tokens(const llama_vocab * vocab);
int32_t llama_vocab_type(const llama_vocab * vocab);
llama_token llama_vocab_bos(const llama_vocab * vocab);
llama_token llama_vocab_eos(const llama_vocab * vocab);
llama_token llama_vocab_pad(const llama_vocab * vocab);
bool llama_vocab_is_eog(const llama_vocab * vocab, llama_token token);
bool llama_vocab_get_add_bos(const llama_vocab * vocab);
const char * llama_vocab_get_text(const llama_vocab * vocab, llama_token token);
int llama_vocab_get_attr(const llama_vocab * vocab, llama_token token);
int32_t llama_tokenize(const llama_vocab * vocab, const char * text, int32_t text_len, llama_token * tokens,
                       int32_t n_tokens_max, bool add_special, bool parse_special);
int32_t llama_token_to_piece(const llama_vocab * vocab, llama_token token, char * buf, int32_t length,
                             int32_t lstrip, bool special);
int32_t llama_decode(llama_context * ctx, struct llama_batch batch);
float * llama_get_logits(llama_context * ctx);
size_t llama_state_seq_get_size(llama_context * ctx, llama_seq_id seq_id);
size_t llama_state_seq_get_data(llama_context * ctx, uint8_t * dst, size_t size, llama_seq_id seq_id);
size_t llama_state_seq_set_data(llama_context * ctx, const uint8_t * src, size_t size, llama_seq_id dest_seq_id);
void llama_memory_clear(llama_memory_t mem, bool data);
bool llama_memory_seq_rm(llama_memory_t mem, llama_seq_id seq_id, llama_pos p0, llama_pos p1);
llama_pos llama_memory_seq_pos_min(llama_memory_t mem, llama_seq_id seq_id);
int32_t llama_model_n_swa(const llama_model * model);
void llama_memory_seq_cp(llama_memory_t mem, llama_seq_id src, llama_seq_id dst, llama_pos p0, llama_pos p1);
"""

# fmt: off
# Values that `llama_*_default_params` of this build give, each next to a place where another build's struct differs.
_MODEL_DEFAULTS = {"n_gpu_layers": -1, "split_mode": 1, "load_mode": -1, "lazy_mode": 1, "main_gpu": 0,
                   "vocab_only": False, "use_extra_bufts": True, "no_alloc": False}
_CONTEXT_DEFAULTS = {"n_ctx": 512, "n_batch": 2048, "n_ubatch": 512, "n_seq_max": 1, "n_outputs_max_per_seq": 1,
                     "rope_scaling_type": -1, "flash_attn_type": -1, "yarn_ext_factor": -1.0, "defrag_thold": -1.0,
                     "type_k": 1, "type_v": 1, "moe_cache_size": 0, "embeddings": False, "offload_kqv": True,
                     "no_perf": True, "op_offload": True, "swa_full": True, "kv_unified": False,
                     "n_samplers": 0}
# fmt: on

# Threads that wait inside OpenMP spin this often before they sleep; measured idle and contended, docs/journal.md.
SPIN_COUNT = "300"


def _file() -> Path:
    given = home.llama_library()
    if given:
        return Path(given).expanduser()
    spec = importlib.util.find_spec(WHEEL)
    folder = Path(spec.origin).parent if spec and spec.origin else None
    found = sorted(folder.glob(f"{WHEEL}*.so")) if folder else []
    if not found:
        raise EngineError("the llama.cpp library is not installed", hint=f"pip install {WHEEL}=={SUPPORTED}")
    return found[0]


def knows(architecture: str) -> bool:
    """Is this name, as general.architecture has it, among the library's own? It lists them nowhere but in its text."""
    return architecture.encode() + b"\0" in _file().read_bytes()


def version() -> str:
    """The build that `library` loads: the wheel's version, or the path given instead."""
    given = home.llama_library()
    if given:
        return given
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as version_of

    try:
        return f"{WHEEL} {version_of(WHEEL)}"
    except PackageNotFoundError:
        return f"{WHEEL}, unknown version"


class Library:
    """The loaded library: `ffi`, `lib`, and the library's own last complaints."""

    def __init__(self) -> None:
        from cffi import FFI

        self.ffi: Any = FFI()
        self.ffi.cdef(_CDEF)
        # Before the library (and its libgomp) is mapped, or it has no effect; what the user has set stands.
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
        file = _file()
        try:
            self.lib: Any = self.ffi.dlopen(str(file))
        except OSError as error:
            hint = "apt-get install libgomp1" if "libgomp" in str(error) else "unset JEITO_LLAMA_LIB"
            raise EngineError(f"the llama.cpp library cannot be loaded: {error}", hint=hint) from error
        self._check_structs(file)
        # ggml asks before every operation whether to stop: C's strlen, which is 1 or 0 for a char[2] as it is set or
        # not, answers without taking Python's lock a thousand times a call.
        self._libc: Any = self.ffi.dlopen(None)
        self.is_set = self.ffi.cast("void *", self.ffi.addressof(self._libc, "strlen"))
        self._complaints: list[str] = []
        self._loading = threading.Lock()
        # Kept for the library's whole life: it holds the pointer.
        self._log = self.ffi.callback("ggml_log_callback", self._hear)
        self.lib.llama_log_set(self._log, self.ffi.NULL)
        self.lib.llama_backend_init()

    def _check_structs(self, file: Path) -> None:
        try:
            model, context = self.lib.llama_model_default_params(), self.lib.llama_context_default_params()
        except AttributeError as error:
            raise EngineError(
                f"{str(file)!r} does not export llama.cpp's C API: {error}", hint=f"pip install {WHEEL}=={SUPPORTED}"
            ) from error
        for params, expected in ((model, _MODEL_DEFAULTS), (context, _CONTEXT_DEFAULTS)):
            for name, value in expected.items():
                found = getattr(params, name)
                if found != value:
                    raise EngineError(
                        f"{str(file)!r} is another build of llama.cpp: {name} is {found!r} by default, not {value!r}",
                        hint=f"pip install {WHEEL}=={SUPPORTED}",
                    )

    def _hear(self, level: int, text: Any, _data: Any) -> None:
        # 3: a warning, 4: an error, in ggml.h; the rest is chatter.
        if level >= 4 and len(self._complaints) < 20:
            self._complaints.append(self.ffi.string(text).decode(errors="replace").strip())

    @contextmanager
    def complaints(self) -> Iterator[list[str]]:
        """What the library says is wrong while the block runs; one block at a time."""
        with self._loading:
            self._complaints.clear()
            yield self._complaints


@cache
def library() -> Library:
    """The one library of this process; raises EngineError when it is missing or of another build."""
    return Library()
