"""What a request would come to: every value with its source, as `jeito explain` says it. Nothing is generated."""

from jeito.run.run import noted
from jeito.serve.asked import Asked
from jeito.serve.reply import Json, shown


def explained(asked: Asked) -> Json:
    """Raises ContextError, InputError for what would be refused."""
    model, trace = asked.served.model, asked.runs[0].trace
    start = model.start(trace.request)
    where, chain = model.environment(), asked.served.loaded.chain
    facts = {
        "engine": where["engine"],
        "precision": where.get("precision"),
        "context": model.context,
        "template": start.template,
        "system_role": model.has_system,
        "files": [file.replace("\\", "/").rpartition("/")[2] for file in chain],
        "prompt_tokens": start.tokens,
    }
    said = {"behaviour": asked.served.label, "model": asked.served.id, "facts": facts}
    return said | shown(noted(trace.receipt, start))
