"""One context of llama.cpp: rows in, logits out. Whose cells are which: llama_runs.py."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jeito.engines.base import Logits, Row, Shape
from jeito.engines.llama_binding import library
from jeito.engines.llama_runs import Runs
from jeito.errors import EngineError, Interrupted, MemoryFull

BATCH = 512
PADDING = 16  # most tokens that a call is padded with


class Worn(NamedTuple):
    """A tuning as a context of llama.cpp takes it: loaded adapters and their scales, and directions, summed."""

    loras: tuple[tuple[Any, float], ...] = ()
    directions: NDArray[np.float32] | None = None
    """[layers - 1, width]: the first layer has none."""


class Cells:
    """A context of `cells` cells that `slots` sequences share; one more sequence pads calls."""

    def __init__(self, model: Any, *, cells: int, slots: int, threads: int) -> None:
        shelf = library()
        self._lib, self._ffi = shelf.lib, shelf.ffi
        params = self._lib.llama_context_default_params()
        # Padding must find room even beside the last token that the context takes.
        params.n_ctx = cells + PADDING
        params.n_batch = params.n_ubatch = params.n_outputs_max_per_seq = BATCH
        params.n_seq_max = slots + 1
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = True
        params.flash_attn_type = 1
        self._stop = self._ffi.new("char[2]")
        params.abort_callback, params.abort_callback_data = shelf.is_set, self._stop
        with shelf.complaints() as complaints:
            self._context = self._lib.llama_init_from_model(model, params)
        if self._context == self._ffi.NULL:
            why = "; ".join(complaints[:2]) or "llama.cpp does not say why"
            raise EngineError(f"no context of {cells} tokens can be made: {why}", hint=f"--context {cells // 2}")
        window = self._lib.llama_model_n_swa(model)
        self.window: int = window if 0 < window < cells else 0
        """Tokens that some layers look back over; 0: all look back over all."""
        self.runs = Runs(self._context, slots=slots, window=self.window)
        self._vocabulary = self._lib.llama_vocab_n_tokens(self._lib.llama_model_get_vocab(model))
        self._worn = Worn()
        self._view: tuple[tuple[Any, int], Logits] | None = None
        # The effective size, not the asked one: a longer call aborts the process.
        self.batch: int = min(BATCH, self._lib.llama_n_batch(self._context))
        self._make_batch()

    def _make_batch(self) -> None:
        size = self.batch
        self._token, self._position = np.zeros(size, np.int32), np.zeros(size, np.int32)
        self._sequence, self._count = np.zeros(size, np.int32), np.ones(size, np.int32)
        self._wanted = np.zeros(size, np.int8)
        self._counting = np.arange(size, dtype=np.int32)
        # llama_batch wants, for each token, a pointer to the list of its sequences: here a list of one each.
        self._pointers = (self._sequence.ctypes.data + 4 * np.arange(size)).astype(np.uint64)
        batch = self._ffi.new("struct llama_batch *")
        batch.token = self._ffi.cast("int32_t *", self._token.ctypes.data)
        batch.pos = self._ffi.cast("int32_t *", self._position.ctypes.data)
        batch.n_seq_id = self._ffi.cast("int32_t *", self._count.ctypes.data)
        batch.seq_id = self._ffi.cast("int32_t **", self._pointers.ctypes.data)
        batch.logits = self._ffi.cast("int8_t *", self._wanted.ctypes.data)
        self._batch = batch

    def extend(self, rows: Sequence[Row], shape: Shape | None = None) -> list[Logits]:
        """One call of the library for all rows; with a shape, padded to it and all logits computed."""
        most = shape.high if shape else self.batch
        total = sum(len(row.tokens) for row in rows)
        if total > most or not all(row.tokens for row in rows):
            raise EngineError(f"a call of {total} tokens in {len(rows)} rows: from 1 a row to {most} together can be")
        if self.runs.is_broken:
            raise EngineError("the memory of this model was lost", hint="load it again")
        for row in rows:
            self.runs.wake(row.slot)
        if shape and self.runs.has_holes:
            self.runs.pack()
        filled = max(total, shape.low) if shape else total
        self._fill(rows, filled, all_wanted=shape is not None)
        status = self._lib.llama_decode(self._context, self._batch[0])
        # Only now: who interrupts just before a call means it too.
        self._stop[0] = b"\0"
        if filled > total:
            self.runs.clear_spare()
        if status == 1:
            raise MemoryFull(f"no room for {total} more tokens", hint="fewer replies at once, or a longer --context")
        if status != 0:
            for row in rows:
                self.runs.drop(row.slot)
            if status == 2:
                raise Interrupted(f"a call of {total} tokens was given up")
            raise EngineError(f"llama.cpp failed at a call of {total} tokens (status {status})")
        for row in rows:
            self.runs.grow(row.slot, len(row.tokens))
        return self._logits(rows, filled)

    def interrupt(self) -> None:
        """The call under way ends at its next operation, on a CPU: graphics cards do not ask."""
        self._stop[0] = b"\1"

    def wear(self, worn: Worn) -> None:
        """From now on every call is computed under these adapters and directions."""
        if worn is self._worn:
            return
        lib, ffi = self._lib, self._ffi
        loras = ffi.new("llama_adapter_lora *[]", [lora for lora, _ in worn.loras])
        scales = ffi.new("float[]", [scale for _, scale in worn.loras])
        failed = lib.llama_set_adapters_lora(self._context, loras, len(worn.loras), scales)
        directions = worn.directions
        if directions is None:
            failed = failed or lib.llama_set_adapter_cvec(self._context, ffi.NULL, 0, 0, 0, 0)
        else:
            layers, width = directions.shape
            data = ffi.from_buffer("float[]", directions)
            failed = failed or lib.llama_set_adapter_cvec(self._context, data, directions.size, width, 1, layers)
        if failed:
            raise EngineError(f"llama.cpp does not take these adapters and directions (status {failed})")
        self._worn = worn

    def _fill(self, rows: Sequence[Row], filled: int, *, all_wanted: bool) -> None:
        end = 0
        for row in rows:
            start, end = end, end + len(row.tokens)
            before = self.runs.length(row.slot)
            self._token[start:end] = row.tokens
            # Adding to what counts from 0 is cheaper than a new range, and a decoding step is all such small things.
            np.add(self._counting[: end - start], before, out=self._position[start:end])
            self._sequence[start:end] = row.slot
            self._wanted[start:end] = all_wanted
            self._wanted[end - row.want : end] = 1
        if filled > end:
            self._token[end:filled] = 0
            self._position[end:filled] = self._counting[: filled - end]
            self._sequence[end:filled] = self.runs.spare
            self._wanted[end:filled] = 1
        self._batch.n_tokens = filled

    def _logits(self, rows: Sequence[Row], filled: int) -> list[Logits]:
        total = int(np.count_nonzero(self._wanted[:filled]))
        table = self._outputs(total)
        if total == len(rows) == filled:  # a decoding step: one token a row
            return [table[at : at + 1] for at in range(total)]
        outputs = np.cumsum(self._wanted[:filled])
        results, end = [], 0
        for row in rows:
            end += len(row.tokens)
            last = int(outputs[end - 1])
            results.append(table[last - row.want : last])
        return results

    def _outputs(self, total: int) -> Logits:
        """[total, vocabulary]: the library's own memory, not a copy."""
        if not total:
            return np.empty((0, self._vocabulary), np.float32)
        pointer = self._lib.llama_get_logits(self._context)
        if self._view is None or self._view[0] != (pointer, total):
            flat = np.frombuffer(self._ffi.buffer(pointer, total * self._vocabulary * 4), np.float32)
            self._view = (pointer, total), flat.reshape(total, self._vocabulary)
        return self._view[1]

    def close(self) -> None:
        self._lib.llama_free(self._context)
