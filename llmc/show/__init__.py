"""What people look at, whatever it is about: tables, colours, heat maps, pages, pictures, bars."""
