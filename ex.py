from irstd.export.commands import export_command; export_command()
