"""The attacks, by name."""

from __future__ import annotations

from collections.abc import Callable

from loadtest.attacks import on_decoder, on_embedding
from loadtest.attacks.target import Target

Attack = Callable[[Target], object]

ATTACKS: dict[str, Attack] = {
    attack.__name__.replace("_", "-"): attack
    for attack in (
        on_decoder.many_points,
        on_decoder.points_at_the_limit,
        on_decoder.many_prompts,
        on_decoder.prompts_at_the_limit,
        on_decoder.large_answers,
        on_decoder.long_names,
        on_decoder.unfinished_uploads,
        on_decoder.idle_streams,
        on_decoder.flood_of_steps,
        on_decoder.rapid_resets,
        on_decoder.hostile_entries,
        on_embedding.costly_files,
        on_embedding.files_of_markers,
        on_embedding.files_at_the_limit,
        on_embedding.large_messages,
        on_embedding.unfinished_embeds,
        on_embedding.long_model_names,
        on_embedding.hostile_metadata,
        on_embedding.bulk_of_nothing,
        on_embedding.silent_connections,
    )
}
