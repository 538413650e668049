"""Where satellites are, which stations see them and when: everything an orbit decides."""
