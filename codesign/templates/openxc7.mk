# The bitstream of $board with openXC7's tools: yosys, nextpnr-xilinx, fasm2frames, xc7frames2bit. Say where their data are:
# make CHIPDB=.../xc7z020$body.bin PRJXRAY_DB_DIR=.../prjxray-db
PART := $part
FASM2FRAMES ?= fasm2frames
DATABASE = $$(PRJXRAY_DB_DIR)/zynq7

$name.bit: $name.frames
	xc7frames2bit --part_file $$(DATABASE)/$$(PART)/part.yaml --part_name $$(PART) --frm_file $$< --output_file $$@

$name.frames: $name.fasm
	$$(FASM2FRAMES) --part $$(PART) --db-root $$(DATABASE) $$< > $$@

$name.fasm: $name.json
	nextpnr-xilinx --chipdb $$(CHIPDB) --freq $clock_mhz --json $$< --fasm $$@

$name.json: $top.v
	yosys -q -p "read_verilog $$<; synth_xilinx -flatten -abc9 -arch xc7 -top $top; write_json $$@"
