// The machine and its memory, with a clock of their own. Python raises `run` once per job and waits for
// `finished`; everything in between happens here, through the machine's registers as a driver would do it. Files lie
// in the directory +jobs=DIR: job N is loaded from image_N.bin (big-endian 64-bit words) and its results are saved to
// result_N.bin (little-endian). Macros in capitals are offsets and masks of `hardware.registers`, see sim/build.py.
`timescale 1ns / 1ns
module bench #(
    parameter int WORDS = 1 << 20,
    parameter int PORTS = 1
);
    localparam int BASE = 32'h4000_0000;  // byte address of the memory
    localparam logic [31:0] START = `CONTROL_START, SOFT_RESET = `CONTROL_SOFT_RESET;
    localparam logic [31:0] INTERRUPT_ENABLE = `CONTROL_INTERRUPT_ENABLE;
    localparam logic [31:0] DONE = `STATUS_DONE, ERROR = `STATUS_ERROR;
    logic clk = 0;
    logic reset = 1;
    always #5 clk = ~clk;
    // From a register: what depends on a signal that a process sets at other times than the rising edge, and most
    // logic depends on the reset, is evaluated several times per cycle.
    logic rst = 1;
    always_ff @(posedge clk) rst <= reset;

    // Set by Python. Only these are visible to it, so that the simulator may optimize the rest.
    logic        run /*verilator public_flat_rw*/ = 0;
    logic [31:0] job /*verilator public_flat_rw*/ = 0;
    logic        reset_first /*verilator public_flat_rw*/ = 1;
    logic [31:0] image_words /*verilator public_flat_rw*/ = 0;
    logic [31:0] program_address /*verilator public_flat_rw*/ = 0;
    logic [31:0] memory_words /*verilator public_flat_rw*/ = 0;
    logic [31:0] origin /*verilator public_flat_rw*/ = 0;  // word address that the memory's first word has
    logic [31:0] watchdog /*verilator public_flat_rw*/ = 0;
    logic [31:0] result_address /*verilator public_flat_rw*/ = 0;
    logic [31:0] result_words /*verilator public_flat_rw*/ = 0;
    logic [31:0] write_low /*verilator public_flat_rw*/ = 0;
    logic [31:0] write_high /*verilator public_flat_rw*/ = 0;
    logic [9:0]  latency /*verilator public_flat_rw*/ = 0;
    logic [6:0]  cycles_per_word /*verilator public_flat_rw*/ = 1;
    logic [47:0] cycle_limit /*verilator public_flat_rw*/ = 0;
    logic        second_start /*verilator public_flat_rw*/ = 0;  // or a soft reset, intrude_at cycles after the start
    logic        soft_reset /*verilator public_flat_rw*/ = 0;
    logic [31:0] intrude_at /*verilator public_flat_rw*/ = 0;
    // To the memory, see dram.sv.
    logic [31:0] seed /*verilator public_flat_rw*/ = 0;
    logic [39:0] stalls /*verilator public_flat_rw*/ = 0;
    logic [4:0]  stop_channel /*verilator public_flat_rw*/ = 0;
    logic [1:0]  stop_port /*verilator public_flat_rw*/ = 0;
    logic [31:0] stop_at /*verilator public_flat_rw*/ = 0;
    logic [31:0] stop_cycles /*verilator public_flat_rw*/ = 0;
    logic [31:0] fault_burst /*verilator public_flat_rw*/ = 0;
    logic        fault_write /*verilator public_flat_rw*/ = 0;
    logic [1:0]  fault_port /*verilator public_flat_rw*/ = 0;
    logic [1:0]  fault_response /*verilator public_flat_rw*/ = 0;
    // Read by Python.
    logic        finished /*verilator public_flat_rw*/ = 0;
    logic        hung /*verilator public_flat_rw*/ = 0;
    logic        memory_fault /*verilator public_flat_rw*/;
    logic        stray_write /*verilator public_flat_rw*/;
    logic [31:0] status /*verilator public_flat_rw*/;        // at the end, ERROR also if it was cleared
    logic [31:0] first_status /*verilator public_flat_rw*/;  // at the first interrupt
    logic [31:0] error_code /*verilator public_flat_rw*/;
    logic [31:0] error_address /*verilator public_flat_rw*/;
    logic [31:0] error_instruction /*verilator public_flat_rw*/;
    logic [63:0] build_hash /*verilator public_flat_rw*/;
    logic [63:0] cycles /*verilator public_flat_rw*/;
    logic [63:0] fetch_busy /*verilator public_flat_rw*/;
    logic [63:0] execute_busy /*verilator public_flat_rw*/;
    logic [63:0] array_steps /*verilator public_flat_rw*/;
    logic [63:0] result_busy /*verilator public_flat_rw*/;
    logic [63:0] read_stall /*verilator public_flat_rw*/;
    logic [63:0] write_stall /*verilator public_flat_rw*/;

    logic        s_awvalid = 0, s_wvalid = 0, s_bready = 0, s_arvalid = 0, s_rready = 0;
    logic [11:0] s_awaddr, s_araddr;
    logic [31:0] s_wdata, s_rdata;
    logic [1:0]  s_bresp, s_rresp;
    wire         s_awready, s_wready, s_bvalid, s_arready, s_rvalid;
    wire         interrupt;
    logic [PORTS-1:0]       arvalid, arready, rvalid, rready, rlast;
    logic [PORTS-1:0][31:0] araddr;
    logic [PORTS-1:0][3:0]  arlen;
    logic [PORTS-1:0][2:0]  arsize;
    logic [PORTS-1:0][1:0]  arburst, rresp;
    logic [PORTS-1:0][63:0] rdata;
    logic        awvalid, awready, wvalid, wready, wlast, bvalid, bready;
    logic [31:0] awaddr;
    logic [3:0]  awlen;
    logic [2:0]  awsize;
    logic [1:0]  awburst, bresp;
    logic [63:0] wdata;
    logic [7:0]  wstrb;

`define READ_PORT(P) \
        .m_axi_``P``_arvalid(arvalid[P]), \
        .m_axi_``P``_arready(arready[P]), \
        .m_axi_``P``_araddr(araddr[P]), \
        .m_axi_``P``_arlen(arlen[P]), \
        .m_axi_``P``_arsize(arsize[P]), \
        .m_axi_``P``_arburst(arburst[P]), \
        .m_axi_``P``_arcache(), \
        .m_axi_``P``_arprot(), \
        .m_axi_``P``_rvalid(rvalid[P]), \
        .m_axi_``P``_rready(rready[P]), \
        .m_axi_``P``_rdata(rdata[P]), \
        .m_axi_``P``_rresp(rresp[P]), \
        .m_axi_``P``_rlast(rlast[P])
    codesign_accelerator machine (
        .clk(clk),
        .rst(rst),
        .interrupt(interrupt),
        .s_axi_awvalid(s_awvalid),
        .s_axi_awready(s_awready),
        .s_axi_awaddr(s_awaddr),
        .s_axi_awprot(3'b0),
        .s_axi_wvalid(s_wvalid),
        .s_axi_wready(s_wready),
        .s_axi_wdata(s_wdata),
        .s_axi_wstrb(4'hf),
        .s_axi_bvalid(s_bvalid),
        .s_axi_bready(s_bready),
        .s_axi_bresp(s_bresp),
        .s_axi_arvalid(s_arvalid),
        .s_axi_arready(s_arready),
        .s_axi_araddr(s_araddr),
        .s_axi_arprot(3'b0),
        .s_axi_rvalid(s_rvalid),
        .s_axi_rready(s_rready),
        .s_axi_rdata(s_rdata),
        .s_axi_rresp(s_rresp),
        .m_axi_0_awvalid(awvalid),
        .m_axi_0_awready(awready),
        .m_axi_0_awaddr(awaddr),
        .m_axi_0_awlen(awlen),
        .m_axi_0_awsize(awsize),
        .m_axi_0_awburst(awburst),
        .m_axi_0_awcache(),
        .m_axi_0_awprot(),
        .m_axi_0_wvalid(wvalid),
        .m_axi_0_wready(wready),
        .m_axi_0_wdata(wdata),
        .m_axi_0_wstrb(wstrb),
        .m_axi_0_wlast(wlast),
        .m_axi_0_bvalid(bvalid),
        .m_axi_0_bready(bready),
        .m_axi_0_bresp(bresp),
`ifdef PORTS_2
        `READ_PORT(1),
`endif
`ifdef PORTS_4
        `READ_PORT(1), `READ_PORT(2), `READ_PORT(3),
`endif
        `READ_PORT(0)
    );

    dram #(.WORDS(WORDS), .PORTS(PORTS), .BASE(BASE)) memory (.*, .fault(memory_fault), .stray(stray_write));

    // A driver's view: one register access after the other. Signals change at the falling edge.
    task automatic write_register(input logic [11:0] offset, input logic [31:0] value);
        s_awaddr = offset;
        s_wdata = value;
        s_awvalid = 1;
        s_wvalid = 1;
        s_bready = 1;
        while (!(s_awready && s_wready)) @(negedge clk);
        @(negedge clk);
        s_awvalid = 0;
        s_wvalid = 0;
        while (!s_bvalid) @(negedge clk);
        if (s_bresp != 0) $fatal(1, "register 0x%0h answered a write with %0d", offset, s_bresp);
        @(negedge clk);
        s_bready = 0;
    endtask

    task automatic read_register(input logic [11:0] offset, output logic [31:0] value);
        s_araddr = offset;
        s_arvalid = 1;
        s_rready = 1;
        while (!s_arready) @(negedge clk);
        @(negedge clk);
        s_arvalid = 0;
        while (!s_rvalid) @(negedge clk);
        value = s_rdata;
        if (s_rresp != 0) $fatal(1, "register 0x%0h answered a read with %0d", offset, s_rresp);
        @(negedge clk);
        s_rready = 0;
    endtask

    task automatic read_wide(input logic [11:0] offset, output logic [63:0] value);
        read_register(offset, value[31:0]);
        read_register(offset + 4, value[63:32]);
    endtask

    logic starting = 0;
    logic [47:0] elapsed;  // cycles since the start
    always_ff @(posedge clk) elapsed <= starting ? 0 : elapsed + 1;
    string directory;
    integer file;
    integer got;

    always @(posedge run) begin
        finished = 0;
        hung = 0;
        void'($value$plusargs("jobs=%s", directory));
        file = $fopen($sformatf("%s/image_%0d.bin", directory, job), "rb");
        if (file == 0) $fatal(1, "cannot open the image of job %0d", job);
        got = $fread(memory.contents, file, 0, image_words);
        if (got != image_words * 8) $fatal(1, "the image of job %0d is short: %0d bytes", job, got);
        $fclose(file);

        @(negedge clk);
        if (reset_first) begin
            reset = 1;
            repeat (16) @(negedge clk);  // AXI's usual minimum, and what the pipelines without reset need
            reset = 0;
            @(negedge clk);
        end
        write_register(`MEMORY_BASE, BASE - (origin << 3));  // wraps, so that few words can have high addresses
        write_register(`MEMORY_WORDS, origin + memory_words);
        write_register(`PROGRAM, origin + program_address);
        write_register(`WATCHDOG, watchdog);
        write_register(`STATUS, DONE | ERROR);
        starting = 1;
        write_register(`CONTROL, INTERRUPT_ENABLE | START);
        starting = 0;
        if (second_start || soft_reset) begin
            repeat (intrude_at) @(negedge clk);
            write_register(`CONTROL, INTERRUPT_ENABLE | (second_start ? START : 0)
                | (soft_reset ? SOFT_RESET : 0));
        end
        wait (interrupt || elapsed >= cycle_limit);
        @(negedge clk);
        read_register(`STATUS, first_status);
        status = first_status;
        while ((status & DONE) == 0 && elapsed < cycle_limit) begin  // an error alone: the machine still waits
            write_register(`STATUS, ERROR);
            wait (interrupt || elapsed >= cycle_limit);
            @(negedge clk);
            read_register(`STATUS, status);
        end
        hung = (status & DONE) == 0;
        status |= first_status & ERROR;
        status &= ~`STATUS_INTERRUPT_PENDING;  // the bench's own doing
        first_status &= ~`STATUS_INTERRUPT_PENDING;
        read_register(`ERROR_CODE, error_code);
        read_register(`ERROR_ADDRESS, error_address);
        read_register(`ERROR_INSTRUCTION, error_instruction);
        read_wide(`BUILD_HASH, build_hash);
        read_wide(`CYCLES, cycles);
        read_wide(`FETCH_BUSY, fetch_busy);
        read_wide(`EXECUTE_BUSY, execute_busy);
        read_wide(`ARRAY_STEPS, array_steps);
        read_wide(`RESULT_BUSY, result_busy);
        read_wide(`READ_STALL, read_stall);
        read_wide(`WRITE_STALL, write_stall);

        file = $fopen($sformatf("%s/result_%0d.bin", directory, job), "wb");
        for (int i = 0; i < result_words; i++) $fwrite(file, "%u", memory.contents[result_address + i]);
        $fclose(file);
        finished = 1;
    end
endmodule
