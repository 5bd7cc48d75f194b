"""Views of environments in the forms of other libraries; each is imported, with its library, when it is asked for."""
