# The bitstream of $board with openXC7's tools: yosys, nextpnr-xilinx, fasm2frames, xc7frames2bit. Say where their data are:
# make CHIPDB=.../xc7z020$body.bin PRJXRAY_DB_DIR=.../prjxray-db
PART := $part
FASM2FRAMES ?= fasm2frames
# nextpnr-xilinx has made wrong products of DSPs that Yosys inferred (openXC7/nextpnr-xilinx #159): LUTs multiply instead.
SYNTH ?= -nodsp
DATABASE = $$(or $$(PRJXRAY_DB_DIR),$$(error say where the database is: make PRJXRAY_DB_DIR=...))/zynq7
CHIP = $$(or $$(CHIPDB),$$(error say where nextpnr-xilinx has its chip database: make CHIPDB=....bin))

# A step that failed must not look as if it had made something.
.DELETE_ON_ERROR:

$name.bit: $name.frames
	xc7frames2bit --part_file $$(DATABASE)/$$(PART)/part.yaml --part_name $$(PART) --frm_file $$< --output_file $$@

$name.frames: $name.fasm
	$$(FASM2FRAMES) --part $$(PART) --db-root $$(DATABASE) $$< > $$@

$name.fasm: $name.json
	nextpnr-xilinx --chipdb $$(CHIP) --freq $clock_mhz --json $$< --fasm $$@

$name.json: $top.v
	yosys -q -p "read_verilog $$<; synth_xilinx -flatten -abc9 $$(SYNTH) -arch xc7 -top $top; write_json $$@"
