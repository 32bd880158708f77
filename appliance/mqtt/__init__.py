"""The MQTT doors: one intake behind two ways in, a site broker and the built-in listener."""
