"""What a run leaves behind: its tables, pictures, mesh, video and report.

`writing` asks for everything in turn; `video` films new views. What is drawn and scored is in
`stages.evaluation`, how a file looks in `utils.results`.
"""
