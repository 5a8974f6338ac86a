"""Wire events become QueryEvents: replies are paired with requests, patients are recognised, statements lose their
literals. Pure: time arrives as an argument, nothing here reads or writes."""
