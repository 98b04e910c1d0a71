from .export import assemble_model as assemble_model
