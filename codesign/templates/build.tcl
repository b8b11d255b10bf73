# Synthesis, placement and routing of the machine alone (out of context) for $board.
#     vivado -mode batch -source build.tcl
# Leaves utilization.txt, timing.txt and $top.dcp beside this script.
set here [file dirname [file normalize [info script]]]
set_part $part
read_verilog [file join $$here .. rtl $top.v]
read_xdc -mode out_of_context [file join $$here clock.xdc]
synth_design -top $top -part $part -mode out_of_context
opt_design
place_design
phys_opt_design
route_design
report_utilization -hierarchical -file [file join $$here utilization.txt]
report_timing_summary -file [file join $$here timing.txt]
write_checkpoint -force [file join $$here $top.dcp]
set slack [get_property SLACK [get_timing_paths -max_paths 1]]
if {$$slack < 0} {
    puts "ERROR: the clock of $clock_mhz MHz is missed by [expr {-$$slack}] ns; see timing.txt"
    exit 1
}
puts "The clock of $clock_mhz MHz is met with $$slack ns to spare."
