// The engine and its memory, with a clock of their own. Python raises `run` once per job and waits for
// `finished`; everything in between happens here. Files lie in the directory +jobs=DIR: job N is loaded from
// image_N.bin (big-endian 64-bit words) and its results are saved to result_N.bin (little-endian).
`timescale 1ns / 1ns
module bench #(
    parameter int WORDS = 1 << 20,
    parameter int PORTS = 1
);
    logic clk = 0;
    logic rst = 1;
    always #5 clk = ~clk;

    // Set by Python. Only these are visible to it, so that the simulator may optimize the rest.
    logic        run /*verilator public_flat_rw*/ = 0;
    logic [31:0] job /*verilator public_flat_rw*/ = 0;
    logic [31:0] image_words /*verilator public_flat_rw*/ = 0;
    logic [31:0] program_address /*verilator public_flat_rw*/ = 0;
    logic [31:0] result_address /*verilator public_flat_rw*/ = 0;
    logic [31:0] result_words /*verilator public_flat_rw*/ = 0;
    logic [9:0]  latency /*verilator public_flat_rw*/ = 0;
    logic [6:0]  cycles_per_word /*verilator public_flat_rw*/ = 1;
    logic [47:0] cycle_limit /*verilator public_flat_rw*/ = 0;
    // Read by Python.
    logic        finished /*verilator public_flat_rw*/ = 0;
    logic        hung /*verilator public_flat_rw*/ = 0;
    logic        memory_fault /*verilator public_flat_rw*/;
    logic [47:0] cycles /*verilator public_flat_rw*/;
    logic [3:0]  error /*verilator public_flat_rw*/;

    logic start = 0;
    wire  busy;
    logic [PORTS-1:0]       request_valid, request_ready, word_valid, word_ready;
    logic [PORTS-1:0][55:0] request;
    logic [PORTS-1:0][63:0] word;
    logic [PORTS-1:0][31:0] request_address;
    logic [PORTS-1:0][23:0] request_words;
    logic                   write_valid, write_ready;
    logic [103:0]           write;
    for (genvar p = 0; p < PORTS; p++) begin : split
        assign request_address[p] = request[p][31:0];
        assign request_words[p] = request[p][55:32];
    end

`define READ_PORT(P) \
        .read_``P``__request__valid(request_valid[P]), \
        .read_``P``__request__ready(request_ready[P]), \
        .read_``P``__request__payload(request[P]), \
        .read_``P``__word__valid(word_valid[P]), \
        .read_``P``__word__ready(word_ready[P]), \
        .read_``P``__word__payload(word[P])
`define OTHER_PORTS \
        .clk(clk), \
        .rst(rst), \
        .start(start), \
        .\program (program_address), \
        .busy(busy), \
        .error(error), \
        .cycles(cycles), \
        .write__word__valid(write_valid), \
        .write__word__ready(write_ready), \
        .write__word__payload(write)
    codesign_engine engine (
        `OTHER_PORTS,
`ifdef PORTS_2
        `READ_PORT(1),
`endif
`ifdef PORTS_4
        `READ_PORT(1), `READ_PORT(2), `READ_PORT(3),
`endif
        `READ_PORT(0)
    );

    dram #(.WORDS(WORDS), .PORTS(PORTS)) memory (
        .clk(clk),
        .rst(rst),
        .latency(latency),
        .cycles_per_word(cycles_per_word),
        .request_valid(request_valid),
        .request_ready(request_ready),
        .request_address(request_address),
        .request_words(request_words),
        .word_valid(word_valid),
        .word_ready(word_ready),
        .word_data(word),
        .write_valid(write_valid),
        .write_ready(write_ready),
        .write_address(write[31:0]),
        .write_data(write[95:32]),
        .write_strobe(write[103:96]),
        .fault(memory_fault)
    );

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

        rst = 1;
        repeat (2) @(negedge clk);
        rst = 0;
        start = 1;
        @(negedge clk);
        start = 0;
        wait (!busy || cycles >= cycle_limit);
        hung = busy;

        file = $fopen($sformatf("%s/result_%0d.bin", directory, job), "wb");
        for (int i = 0; i < result_words; i++) $fwrite(file, "%u", memory.contents[result_address + i]);
        $fclose(file);
        finished = 1;
    end
endmodule
